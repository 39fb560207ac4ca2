"""What services write and read, as JSON Schema: described, compared, told as an AsyncAPI document. No I/O here."""

"""The command line: `ensue run`, and looking at and deciding on what runs. A face; it decides nothing by itself."""

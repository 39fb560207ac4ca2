"""The screens: each fills in a template with what `ensue.operations` says, or has it decide what a form asks for."""

"""The screens: each reads what `ensue.operations` says and fills in a template, or has it decide what a form asks for."""

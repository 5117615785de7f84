"""How the runs of a group are one program."""

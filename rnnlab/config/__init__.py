"""From a config's file and the command line to checked fields; what is wrong, in one line."""

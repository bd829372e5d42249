"""What the program does, without HTTP."""

"""From a file of the author's to a program that can be started."""

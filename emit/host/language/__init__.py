"""Turns an author's file into a program that can be started."""

"""The smallest node of the Python SDK: it answers each message with the message."""

from emit_sdk import serve


def echo(msg):
    return msg


serve(echo)

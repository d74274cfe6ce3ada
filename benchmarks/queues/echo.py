from emit_sdk import serve


def echo(msg):
    return msg.word


serve(echo)

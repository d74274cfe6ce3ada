import logging

from emit_sdk import Reject, context, node, serve


@node
def {{name}}(text: str):
    """Emit each word of the text."""
    if not text.strip():
        raise Reject("there is no word in it")
    logging.info("attempt %d", context().attempt)
    for word in text.split():
        yield {"word": word, "length": len(word)}


serve()

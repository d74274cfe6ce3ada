def {{name}}(msg):
    """Emit each word of the text."""
    for word in msg.text.split():
        yield {"word": word, "length": len(word)}

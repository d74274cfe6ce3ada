from emit_sdk import serve


def letters(msg):
    return {"word": msg.word, "letters": "".join(sorted(msg.word))}


serve(letters)

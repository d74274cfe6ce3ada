require "json"

text = JSON.parse(STDIN.read)["text"]
words = text.scan(/[A-Za-z]{3,}/).map(&:downcase)
puts({ counts: words.tally }.to_json)

require "json"
puts JSON.parse(STDIN.read)["word"].to_json

require "emit"

# Emits each word of the text.
def {{name}}(msg, out)
  raise Emit::Reject, "there is no word in it" if msg[:text].strip.empty?

  Emit.logger.info("attempt #{Emit.context.attempt}")
  msg[:text].split.each { |word| out << { word: word, length: word.size } }
end

Emit.node(:{{name}})

require "emit"

Emit.node { |msg| msg["word"] }

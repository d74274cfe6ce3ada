# The smallest node of the Ruby SDK: it answers each message with the message.
require "emit"

Emit.node { |msg| msg }

# frozen_string_literal: true

# Serve a Ruby file as a node, though it requires nothing of Emit: launch.rb FILE [FUNCTION].

begin
  gem "emit-graph-sdk" # one that the author has installed wins
rescue LoadError
  $LOAD_PATH << File.expand_path("../../sdks/ruby/lib", __dir__)
end
require "emit"

Emit.boot(*ARGV.shift(2))

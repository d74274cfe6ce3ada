# frozen_string_literal: true

# Serve a Ruby file as a node, though it requires nothing of Emit: launch.rb FILE [FUNCTION].

# What keeps Bundler from setting up these groups of the Gemfile, or nil.
bundler_failure = lambda do |*groups|
  require "bundler"
  Bundler.ui.silence { Bundler.setup(*groups) }
  nil
rescue LoadError, StandardError => error # no Bundler, a gem that is not installed, another Ruby
  Bundler.reset! if defined?(Bundler)
  error.message[/\S.*/]
end

# As `bundle exec`, but a file may need less than all of its Gemfile: not the gems for development,
# or none. What it needs and is missing shows when the file requires it.
if ENV.key?("BUNDLE_GEMFILE") && (failure = bundler_failure.call)
  instead = bundler_failure.call(:default) ? "the file runs without Bundler" : "it has the gems outside of groups"
  warn "Bundler can't set up #{ENV.fetch('BUNDLE_GEMFILE')}, #{instead}: #{failure}"
end

begin
  gem "emit-graph-sdk" # one that the author has installed wins
rescue LoadError
  $LOAD_PATH << File.expand_path("../../sdks/ruby/lib", __dir__)
end
require "emit"

Emit.boot(*ARGV.shift(2))

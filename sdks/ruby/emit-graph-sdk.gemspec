# frozen_string_literal: true

require_relative "lib/emit/version"

Gem::Specification.new do |spec|
  spec.name = "emit-graph-sdk"
  spec.version = Emit::VERSION
  spec.authors = ["The Emit authors"]
  spec.summary = "Write a node of an Emit graph in Ruby"
  spec.description = "Emit is a streaming graph for Python whose nodes can be written in any language. " \
                     "With this gem, a node is a few lines of Ruby."
  spec.homepage = "https://github.com/emit-graph/emit"
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.0"
  spec.files = Dir["lib/**/*.rb", "README.md", base: __dir__]
  spec.metadata = {
    "source_code_uri" => "#{spec.homepage}/tree/main/sdks/ruby",
    "changelog_uri" => "#{spec.homepage}/blob/main/CHANGELOG.md",
    "rubygems_mfa_required" => "true"
  }
end

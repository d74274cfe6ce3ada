# frozen_string_literal: true

require_relative "emit/version"
require_relative "emit/errors"
require_relative "emit/values"
require_relative "emit/codec"
require_relative "emit/frames"
require_relative "emit/forks"
require_relative "emit/call"
require_relative "emit/node"
require_relative "emit/session"
require_relative "emit/plain"
require_relative "emit/serve"

# Write a node of an Emit graph in Ruby: no dependencies, Ruby 3.0 or newer.
#
#     require "emit"
#
#     Emit.node do |msg, out|
#       msg[:count].times { |i| out << i }
#     end
#
# The map, which the SDKs of other languages follow: errors, node and call (the author's part),
# values and codec (json, msgpack), frames, forks, session, serve (plain, boot), log, testing. The
# wire is described in runtimes/PROTOCOL.md.
module Emit
  autoload :Boot, File.join(__dir__, "emit/boot")
  autoload :Log, File.join(__dir__, "emit/log")
  autoload :Testing, File.join(__dir__, "emit/testing")
  autoload :Types, File.join(__dir__, "emit/types")

  PROGRAM = File.exist?($PROGRAM_NAME) ? File.realpath($PROGRAM_NAME) : $PROGRAM_NAME
  @nodes = {}
  @concurrency = 1

  class << self
    # @return [Hash{String => Node}] the nodes that `Emit.node` registered
    attr_reader :nodes

    # Register a node of this program.
    #
    # A handler takes `|msg|`, the message, and returns its result; or takes `|msg, out|` and pushes
    # any number into *out*. Keywords are fields instead: `|sku:, count: 1|` needs a sku, may have a
    # count, and leaves other fields out unless there is a `**rest`. A returned Enumerator is a
    # stream of results; nil is no result.
    #
    # The program that registers nodes serves them when its file has run. A file that is required,
    # by a test for one, never serves.
    #
    # @param name [String, Symbol, Method, nil] the name; by default, the file's or the method's
    # @param handler [#call, nil] instead of a block. With neither, *name* is a method of the file's
    #   top level: `Emit.node def words(text:) = text.split.each`
    # @param inputs [Hash, nil] the types of the message's fields, for `emit check`; see Types.schema
    # @param outputs [Object, nil] the type of one result
    # @return [Node]
    # @raise [ArgumentError] two nodes of one name, parameters that no message can fill, or no type
    #
    # @example
    #   Emit.node(:total, inputs: { prices: [Float] }, outputs: Float) { |prices:| prices.sum }
    def node(name = nil, handler = nil, inputs: nil, outputs: nil, &block)
      location = caller_locations(1, 1).first
      handler ||= block || (name.respond_to?(:call) ? name : toplevel(name))
      name = handler.name if name.equal?(handler)
      node = Node.new(name || File.basename(location.path, ".*"), handler, inputs: inputs, outputs: outputs)
      raise ArgumentError, "two nodes are called #{node.name}; give each its own name" if @nodes.key?(node.name)

      serve_at_exit if program?(location)
      @nodes[node.name] = node
    end

    # @return [Node] the registered node of this name, for a test: `Emit[:count].call(count: 3)`
    # @raise [KeyError] no node has this name
    def [](name)
      @nodes.fetch(name.to_s) { raise KeyError, "no node #{name}, only: #{@nodes.keys.join(', ')}" }
    end

    # Serve all nodes, until the input ends. A program needs this only to set *concurrency*, or to
    # do something afterwards. Does nothing in a file that was required.
    #
    # Under a host this speaks frames. By hand, `echo '{"count": 3}' | ruby count.rb`, it prints one
    # line of JSON per result; `EMIT_MSG='{"count": 3}' ruby count.rb` leaves the terminal to a
    # debugger. By hand, EMIT_NODE chooses among several nodes.
    #
    # @param concurrency [Integer] how many calls run at a time, in threads
    # @raise [SystemExit] status 1 after a failure by hand, or a program that cannot be served
    def serve(concurrency: 1)
      unless concurrency.is_a?(Integer) && concurrency.positive?
        raise ArgumentError, "concurrency must be a whole number from 1 up, not #{concurrency.inspect}"
      end

      @concurrency = concurrency
      run_program { @nodes } if program?(caller_locations(1, 1).first)
    end

    # Load the file at *path* and serve it, for a launcher. The file need not know of Emit.
    #
    # Serves the nodes that the file registers. Without any, serves its top-level method *function*,
    # the method with the file's name, `handler`, or the only one.
    def boot(path, function = nil)
      Frames.take
      Failure.ours << "#{caller_locations(1, 1).first.path}:"
      run_program { Boot.load(path, function) }
    end

    # @return [Call] the current call. Outside of one, as in a test: a call that is never cancelled
    def context = slot[0] || Call.new

    # @return [Logger] its lines reach the host with the call they belong to; the level is INFO
    def logger = @logger ||= Log.new

    # @api private
    # @return [Method] a function of the file's top level, even if it is called `method` itself
    def toplevel(name) = Kernel.instance_method(:method).bind_call(TOPLEVEL_BINDING.receiver, name)

    # Return the seconds of the clock that counts deadlines.
    def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

    # Holds the current call of this thread. `Thread.current[]` would be invisible to an
    # Enumerator's fiber. It is a slot, not the call itself, since it is looked up once and written
    # for each call.
    def slot
      Thread.current.thread_variable_get(:emit_call) ||
        [].tap { |slot| Thread.current.thread_variable_set(:emit_call, slot) }
    end

    private

    def run_program
      @served = true
      Serve.run { [yield, @concurrency] }
    end

    def program?(location)
      location.path == $PROGRAM_NAME || location.absolute_path == PROGRAM
    end

    # Takes the wire at once, so that nothing the rest of the file prints gets into it.
    def serve_at_exit
      return if @at_exit || @served

      @at_exit = true
      Frames.take
      at_exit { run_program { @nodes } unless @served || $! }
    end
  end
end

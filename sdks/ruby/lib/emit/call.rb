# frozen_string_literal: true

module Emit
  # One message given to a handler: what `Emit.context` returns.
  class Call
    # @return [Integer, nil] the call's number in this process; nil outside of a host
    attr_reader :id
    # @return [String, nil] name of the node that was called
    attr_accessor :node

    # What the session keeps with a call; no author needs these.
    attr_reader :msg, :parts, :cancelled
    attr_accessor :size, :since

    def initialize(frame = {}, session = nil)
      @id = frame[:id]
      @node = frame[:node]
      @msg = frame[:msg]
      @meta = frame[:meta]
      @session = session
      @parts = []
      @size = 0
      @deadline = Emit.now + @meta[:deadline_ms] / 1000.0 if @meta && @meta[:deadline_ms]
    end

    # @return [String, nil] name of the node that emitted the message
    def origin = @meta && @meta[:origin]

    # @return [Integer] which attempt this is, counted by the host: 1 is the first
    def attempt = (@meta && @meta[:attempt]) || 1

    # @return [String, nil] the sender's W3C trace context
    def traceparent = @meta && @meta[:traceparent]

    # @return [Hash] the node's configuration at the host
    def config = @session ? @session.config : {}

    # @return [Float, nil] seconds until the deadline, below 0 when it has passed; nil without one
    def remaining = @deadline && @deadline - Emit.now

    # Whether the host has cancelled this call. A long handler asks now and then.
    def cancelled?
      @session&.look
      @cancelled ? true : false
    end

    def cancel
      @cancelled = true
    end
  end

  # What a handler with a second parameter pushes its results into.
  class Out
    def initialize(&emit)
      @emit = emit
    end

    # @return [Out] itself, so that one may push several in a row
    def <<(value)
      @emit.call(value)
      self
    end
  end

  def self.now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

  # Not `Thread.current[]`, which an Enumerator's fiber would not see.
  def self.current=(call)
    Thread.current.thread_variable_set(:emit_call, call)
  end
end

# frozen_string_literal: true

module Emit
  # One message given to a handler: `Emit.context` returns it, and a second parameter receives it.
  class Call
    EARLY = 0.005 # Seconds by which a timer may fire early.

    # The session's own data about a call; no author needs these.
    attr_reader :cancelled, :asks, :data, :count, :since

    # @return [String, nil] name of the node that was called
    attr_reader :node

    # @return [Integer, nil] the call's number in this process; nil outside of a host
    attr_reader :id

    attr_reader :msg

    # @param home [#emit, #look] the place where it runs: under a host, the session
    def initialize(home = nil, node = nil, id = nil, msg = nil, meta = nil)
      @home = home
      @node = node
      @id = id
      @msg = msg
      @meta = meta
    end

    # Begins the time of the call at its turn: calls are sent ahead, and wait.
    #
    # @param now [Float] the time, by `Emit.now`
    def start(now)
      left = @meta && @meta[:deadline_ms]
      @deadline = now + left / 1000.0 if left
    end

    # True if *error* is a timeout and the deadline has passed.
    def timeout?(error)
      return false unless @deadline && Emit.now > @deadline - EARLY

      Failure.timeout?(error)
    end

    # @return [String, nil] name of the node that emitted the message
    def origin = @meta && @meta[:origin]

    # @return [Integer] the number of this attempt, counted by the host: 1 is the first
    def attempt = (@meta && @meta[:attempt]) || 1

    # @return [String, nil] the W3C trace context of this run, if it is traced at the host, and
    #   otherwise the sender's
    def traceparent = @meta && @meta[:traceparent]

    # @return [String, nil] the second part of that context
    def tracestate = @meta && @meta[:tracestate]

    # Return the configuration of the node: its `config` at the host. A run by hand, a test and a
    # program for one message read it from the environment variable EMIT_CONFIG, a map in JSON.
    #
    # @return [Hash{Symbol => Object}] empty if there is none
    # @raise [ArgumentError] EMIT_CONFIG is not a map in JSON
    #
    # @example
    #   Emit.node(:load) { |msg| (@db ||= connect(Emit.context.config[:url])).rows(msg[:id]) }
    def config = Serve.config

    # The time of a call begins when its handler is called. A handler that fails with a timeout
    # (`Timeout::Error`, `IO::TimeoutError`, ...) after the deadline is tried again.
    #
    # @return [Float, nil] seconds until the deadline, below 0 after it; nil without a deadline
    def remaining = @deadline && @deadline - Emit.now

    # True if the host has cancelled this call.
    #
    # A handler that has asked once is expected to ask now and then, and is not interrupted. In any
    # other, a cancel raises `Emit::Cancelled`, wherever the handler is.
    def cancelled?
      @asks = true
      @home&.look
      @cancelled ? true : false
    end

    # Emit one of several results. A handler gets the call as `out`.
    #
    # @return [Call] itself, so that several results can be pushed in a row
    # @raise [EncodeError] the wire cannot carry it
    def <<(value)
      @home.emit(self, value)
      self
    end

    def cancel
      @cancelled = true
    end

    # Results wait here, encoded, until there are enough of them for a frame.
    def add(part, separator)
      if @data
        @data << separator << part
        @count += 1
      else
        @since = Emit.now
        @data = part
        @count = 1
      end
    end

    def empty
      @data = nil
    end
  end
end

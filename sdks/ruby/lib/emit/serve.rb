# frozen_string_literal: true

module Emit
  # Serves a program's nodes, under a host or by hand.
  module Serve
    PROTOCOL_ERROR = 76 # EX_PROTOCOL of sysexits.h

    EARLY = "the config comes when the program has loaded: read Emit.context.config in a handler, not before"

    class << self
      # @return [Session, nil] the conversation with a host, if there is one
      attr_reader :session

      # @return [Hash] the node's configuration
      def config
        @config ||= given_config
      end

      # @yieldreturn [Array(Hash, Integer)] the nodes by name, and the concurrency
      def run(&load)
        wire = Frames.take
        served, failure = attempt(&load)
        given = ENV.fetch("EMIT_MSG", nil)
        first = given || Frames.first_line(wire[0])
        # A line that looks like a hello is a message there: it may have a field "op".
        hello = Frames.hello(first) unless given || ENV["EMIT_PROBE"] == "1"
        return converse(served, failure, hello, wire) if hello
        raise failure if failure

        @config = given_config
        ENV.delete("EMIT_CONFIG") # it is not for programs that a handler starts
        Plain.new(*served, wire).run(first)
      end

      def ready(nodes, concurrency)
        inputs = nodes.transform_values(&:about_inputs).reject { |_, names| names.empty? }
        outputs = nodes.transform_values(&:outputs).reject { |_, schema| schema.empty? }
        {
          op: "ready", v: 1, sdk: "ruby/#{VERSION}", concurrency: concurrency,
          nodes: nodes.keys, inputs: inputs, outputs: outputs, caps: %w[cancel end groups]
        }
      end

      # @return [KeyError] for a name that none of several nodes has
      def absent(name, nodes)
        KeyError.new("there is no node \"#{name}\" in this program; it has: #{nodes.keys.join(', ')}")
      end

      private

      # The text of an error never quotes it: it may hold secrets.
      def given_config
        text = ENV.fetch("EMIT_CONFIG", "")
        config = text.empty? ? {} : Json.new.load(text)
        config.is_a?(Hash) ? config : raise(ArgumentError, "EMIT_CONFIG is not a map in JSON")
      rescue JSON::ParserError, EncodeError
        raise ArgumentError, "EMIT_CONFIG is not a map in JSON", cause: nil
      end

      def attempt
        nodes, concurrency = yield
        raise ArgumentError, "there is no node to serve" if nodes.empty?

        [[nodes, concurrency], nil]
      rescue Exception => failure # a file may not even parse
        [nil, failure]
      end

      def converse(served, failure, hello, wire)
        versions = Array(hello[:v])
        failure ||= ArgumentError.new("this SDK speaks version 1, not any of #{versions}") unless versions.include?(1)
        failure ||= RuntimeError.new(EARLY) if @config # it was read before hello came
        if failure
          wire[1].write(Json.new.frame({ op: "err", id: nil }.merge(Failure.describe(failure))))
          exit(1)
        end
        @config = hello[:config] || {}
        @session = Session.new(*served, wire)
        hold(hello)
        exit(PROTOCOL_ERROR) if session.broken?
      end

      def hold(hello)
        session.run(hello)
      rescue StandardError => error # no ready frame fits
        session.give_up(error)
      end
    end
  end
end

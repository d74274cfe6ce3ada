# frozen_string_literal: true

module Emit
  # Runs nodes in an author's tests, without a host, and collects the results of one call.
  class Testing
    # @return [Array] the results, as they were emitted
    def self.call(node, msg)
      testing = new
      call = Call.new(testing)
      result = node.run(received(msg), call)
      call << result unless result.nil?
      testing.results
    end

    # Return the value as it would come from a host: keys are symbols at every level.
    def self.received(value)
      case value
      when Hash then value.to_h { |key, item| [key.to_sym, received(item)] }
      when Array then value.map { |item| received(item) }
      else value
      end
    end

    attr_reader :results

    def initialize
      @values = Values.new(binary: true)
      @results = []
    end

    def emit(_call, value)
      @values.clean(value)
      @results << value
    end

    def look; end
  end
end

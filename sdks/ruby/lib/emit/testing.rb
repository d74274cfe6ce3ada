# frozen_string_literal: true

module Emit
  # Nodes in an author's tests, with no host.
  module Testing
    module_function

    # @return [Array] the results, as they were emitted
    def call(node, msg)
      values = Values.new(binary: true)
      results = []
      emit = lambda do |value|
        values.clean(value)
        results << value
      end
      result = node.run(received(msg), &emit)
      emit.call(result) unless result.nil?
      results
    end

    # As it would come from a host: keys are symbols at every level.
    def received(value)
      case value
      when Hash then value.to_h { |key, item| [key.to_sym, received(item)] }
      when Array then value.map { |item| received(item) }
      else value
      end
    end
  end
end

# frozen_string_literal: true

module Emit
  # A handler, and how to call it with a message.
  class Node
    FIELDS = %i[keyreq key keyrest].freeze

    # Makes `msg["count"]` find the same as `msg[:count]`.
    BY_TEXT = ->(msg, key) { msg.fetch(key.to_sym, nil) if key.is_a?(String) }

    attr_reader :name, :handler, :inputs, :outputs

    # @param inputs [Hash, nil] the types of the message's fields; see Types
    # @param outputs [Object, nil] the type of one result
    def initialize(name, handler, inputs: nil, outputs: nil)
      @name = name.to_s
      @handler = handler.respond_to?(:parameters) ? handler : handler.method(:call)
      @kinds = @handler.parameters.group_by(&:first)
      @inputs = {}
      @places = @kinds.values_at(:req, :opt).compact.sum(&:size)
      @fields = FIELDS.any? { |kind| @kinds.key?(kind) }
      @takes_msg = !@fields && @places == 1 # and nothing else, as in most handlers
      @pushes = @places == (@fields ? 1 : 2)
      check_parameters
      @inputs = { required: fields(:keyreq), optional: fields(:key) } if @fields
      @known = @inputs.values.flatten
      @told = inputs ? told(inputs) : @inputs
      @outputs = outputs.nil? ? {} : Types.schema(outputs)
    end

    # Call the handler with a message. Its pushed or enumerated results go to *call*. Its only
    # result is returned; nil means no result.
    #
    # @param msg [Hash{Symbol => Object}]
    # @param call [Call]
    def run(msg, call)
      raise ArgumentError, "a message is a map of fields, not #{msg.class}" unless msg.is_a?(Hash)

      msg.default_proc = BY_TEXT unless @fields
      result = @takes_msg ? @handler.call(msg) : handle(msg, call)
      return nil if @pushes
      return result unless result.is_a?(Enumerator)

      result.each_entry { |value| call << value }
      nil
    end

    # @return [Hash] its inputs for the ready frame, with their types as far as they are declared
    def about_inputs = @told

    # Call it with a message in a test, without a host: `Emit[:count].call(count: 3)`.
    #
    # @param msg [Hash, nil] the message, or its fields as keywords
    # @return [Array] its results
    # @raise [EncodeError] no codec carries a result
    # @raise [StandardError] the handler's exception
    def call(msg = nil, **fields) = Testing.call(self, msg || fields)

    private

    def check_parameters
      return if @places <= (@fields ? 1 : 2) && !@kinds.key?(:rest)

      raise ArgumentError, "#{@name} must take (msg), (msg, out), or the fields it needs by name"
    end

    # Without keywords, the declaration also says which fields there are. A key such as :"sku?" is
    # an optional field.
    def told(types)
      types = types.to_h { |name, type| [name.to_s, Types.schema(type)] }
      may, must = types.keys.partition { |name| name.end_with?("?") }
      properties = types.transform_keys { |name| name.delete_suffix("?") }.reject { |_, schema| schema.empty? }
      names = @fields ? @inputs : { required: must, optional: may.map { |name| name.delete_suffix("?") } }
      { **names, properties: properties }
    end

    def fields(kind) = @kinds.fetch(kind, []).map(&:last)

    def handle(msg, call)
      return handle_fields(msg, call) if @fields

      @places.zero? ? @handler.call : @handler.call(msg, call)
    end

    def handle_fields(msg, call)
      missing = @inputs[:required].find { |name| !msg.key?(name) }
      if missing
        raise ArgumentError, "#{@name} needs \"#{missing}\"; the message has: #{msg.keys.join(', ')}"
      end

      msg = msg.slice(*@known) unless @kinds.key?(:keyrest)
      @pushes ? @handler.call(call, **msg) : @handler.call(**msg)
    end
  end
end

# frozen_string_literal: true

module Emit
  # Types that an author declares, as JSON Schema. The host compares them; nothing is checked here.
  module Types
    SCHEMAS = {
      String => { type: "string" }, Symbol => { type: "string" }, Integer => { type: "integer" },
      Float => { type: "number", format: "double" }, Numeric => { type: "number" },
      TrueClass => { type: "boolean" }, FalseClass => { type: "boolean" }, NilClass => { type: "null" },
      Array => { type: "array" }, Hash => { type: "object" },
      Time => { type: "string", format: "date-time" }, Object => {}
    }.freeze

    module_function

    # @param type [Class, nil, Array, Hash] a class: String, Integer, Float, Numeric, Array, Hash,
    #   Time, or Object for anything; true for a boolean; nil for nil; [Integer] for a list of
    #   integers; { sku: String, "note?": String } for a map, where note may be missing;
    #   { String => Integer } for a map of any keys; [:or, String, nil] for one of several
    # @return [Hash] its JSON Schema
    # @raise [ArgumentError] the type is none of these
    def schema(type)
      type = { true => TrueClass, false => FalseClass, nil => NilClass }.fetch(type, type)
      case type
      when Class then SCHEMAS.fetch(type) { raise ArgumentError, "#{type} is no type of a field" }
      when Array then list(type)
      when Hash then map(type)
      else raise ArgumentError, "#{type.inspect} is no type of a field; give a class, such as String"
      end
    end

    def list(type)
      first, *rest = type
      return { anyOf: rest.map { |each| schema(each) } } if first == :or && rest.any?
      raise ArgumentError, "a list has one type, as in [Integer], not #{type.size}" if type.size != 1

      { type: "array", items: schema(first) }
    end

    def map(type)
      return { type: "object", additionalProperties: schema(type[String]) } if type.keys == [String]

      fields = type.to_h { |name, each| [name.to_s, schema(each)] }
      {
        type: "object",
        properties: fields.transform_keys { |name| name.delete_suffix("?") },
        required: fields.keys.reject { |name| name.end_with?("?") }
      }
    end
  end
end

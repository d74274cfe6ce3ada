# frozen_string_literal: true

module Emit
  # Makes nodes of a file that need not know of Emit, for a launcher to serve.
  module Boot
    module_function

    # @return [Hash{String => Node}]
    # @raise [ArgumentError] several functions could be meant, or none
    def load(path, function)
      path = File.expand_path(path)
      Kernel.load(path)
      found = functions(path)
      found.each { |name| give_back(name) }
      return registered(path, function) unless Emit.nodes.empty?

      name = choose(path, function, found)
      { name => Node.new(name, Emit.toplevel(name)) }
    end

    # A function at the top level is a method of every object. If it has the name of one of Ruby's
    # own methods, as in a file format.rb, it is kept for the top level alone: the SDK, the standard
    # library and gems need Ruby's.
    def give_back(name)
      hidden = [Kernel, BasicObject].any? { |owner| owner.method_defined?(name) || owner.private_method_defined?(name) }
      return unless hidden

      method = Object.instance_method(name)
      Object.remove_method(name)
      TOPLEVEL_BINDING.receiver.define_singleton_method(name, method)
    end

    def registered(path, function)
      return Emit.nodes if function.nil?

      node = Emit.nodes[function]
      raise missing(path, function, Emit.nodes.keys) unless node

      { function => node }
    end

    # Return the names of the functions that the file itself defines at its top level, in its order.
    def functions(path)
      methods = (Object.private_instance_methods(false) | Object.public_instance_methods(false))
                .map { |name| Object.instance_method(name) }
                .select { |method| method.source_location&.first == path }
      methods.sort_by { |method| method.source_location[1] }.map { |method| method.name.to_s }
    end

    def choose(path, function, found)
      return found.include?(function) ? function : raise(missing(path, function, found)) if function

      stem = File.basename(path, ".*").tr("-", "_")
      name = [stem, "handler", (found.first if found.size == 1)].find { |each| found.include?(each) }
      return name if name

      file = File.basename(path)
      raise ArgumentError, "#{file}: there is no function in it" if found.empty?

      raise ArgumentError, "#{file}: which function is the node? Name it #{stem}, or say #{file}:name " \
                           "(found: #{found.join(', ')})"
    end

    def missing(path, function, found)
      ArgumentError.new("#{File.basename(path)}: there is no function #{function} in it (found: #{found.join(', ')})")
    end
  end
end

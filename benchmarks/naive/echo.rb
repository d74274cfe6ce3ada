# What one writes without an SDK: a line in, a line out, flushed. `each_line` ends with the input.
require "json"

$stdin.each_line do |line|
  puts JSON.generate(JSON.parse(line))
  $stdout.flush
end

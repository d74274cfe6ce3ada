# The program without an SDK: read a line, write a line, flush. `each_line` ends with the input.
require "json"

$stdin.each_line do |line|
  puts JSON.generate(JSON.parse(line))
  $stdout.flush
end

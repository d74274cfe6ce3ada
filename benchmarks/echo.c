/* The fastest possible node: it answers each call with its message, and parses nothing else. It
   takes flat messages in JSON only, and reads and writes 64 KiB at a time. With an argument, it takes
   and answers groups of calls. */
#include <string.h>
#include <unistd.h>

static char in[1 << 18], out[1 << 20];
static const char *ready = "{\"op\":\"ready\",\"v\":1}\n";

static void flush(size_t *used) {
  for (size_t done = 0; done < *used;) {
    ssize_t n = write(1, out + done, *used - done);
    if (n <= 0) _exit(1);
    done += n;
  }
  *used = 0;
}

static size_t append(size_t used, const char *text, size_t size) {
  memcpy(out + used, text, size);
  return used + size;
}

static size_t answer_group(char *line, size_t used) {
  char *id = strstr(line, "\"id\":"), *msg = strstr(line, "\"msgs\":["), *end;
  id += 5;
  used = append(used, "{\"op\":\"ends\",\"id\":", 18);
  used = append(used, id, strcspn(id, ",}"));
  used = append(used, ",\"msgs\":", 8);
  for (msg += 7; *msg != ']'; msg = end) {
    end = strchr(msg, '}') + 1;
    used = append(used, msg, 1);
    used = append(used, "[", 1);
    used = append(used, msg + 1, end - msg - 1);
    used = append(used, "]", 1);
  }
  return append(used, "]}\n", 3);
}

static size_t answer(char *line, size_t used) {
  if (strstr(line, "\"op\":\"calls\"")) return answer_group(line, used);
  char *id = strstr(line, "\"id\":"), *msg = strstr(line, "\"msg\":"), *end;
  if (strstr(line, "\"op\":\"hello\""))
    return append(used, ready, strlen(ready));
  if (!id || !msg) return used;
  id += 5;
  msg += 6;
  end = strchr(msg, '}') + 1;
  used = append(used, "{\"op\":\"end\",\"id\":", 17);
  used = append(used, id, strcspn(id, ",}"));
  used = append(used, ",\"msgs\":[", 9);
  used = append(used, msg, end - msg);
  return append(used, "]}\n", 3);
}

int main(int count, char **words) {
  if (count > 1) ready = "{\"op\":\"ready\",\"v\":1,\"caps\":[\"groups\"]}\n";
  size_t held = 0, used = 0;
  for (;;) {
    ssize_t n = read(0, in + held, 65536);
    if (n <= 0) return 0;
    held += n;
    char *start = in, *newline;
    while ((newline = memchr(start, '\n', in + held - start))) {
      *newline = 0;
      if (newline > start) used = answer(start, used);
      if (used > sizeof out - 2 * sizeof in) flush(&used);
      start = newline + 1;
    }
    held -= start - in;
    memmove(in, start, held);
    flush(&used);
  }
}

package emit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

type badError struct{ cause error }

func (e badError) Error() string { return "bad \xff" }
func (e badError) Unwrap() error { return e.cause }

// A nilError is what returning a nil pointer as an error makes: all its methods panic.
type nilError struct{ cause error }

func (e *nilError) Error() string { return e.cause.Error() }
func (e *nilError) Unwrap() error { return e.cause }

func TestErrors(t *testing.T) {
	failing := func(err error) Handler[Message, int] {
		return Map(func(Message) (int, error) { return 0, err })
	}
	var late func(int) error
	k := converse(t, programOf(1,
		newNode("plain", failing(errors.New("as asked"))),
		newNode("caused", failing(badError{fmt.Errorf("middle: %w", os.ErrNotExist)})),
		newNode("joined", failing(errors.Join(errors.New("one"), errors.New("two")))),
		newNode("retry", failing(fmt.Errorf("outer: %w", Retry(errors.New("busy"), 1500*time.Millisecond)))),
		newNode("again", failing(Retry(nil, 0))),
		newNode("reject", failing(Reject(errors.New("never")))),
		newNode("nil", failing((*nilError)(nil))),
		newNode("busy", failing(Retry((*nilError)(nil), 0))),
		newNode("panic", Pure(func(Message) int { panic("oh") })),
		newNode("native", Pure(func(m Message) int { return []int{}[len(m)] })),
		newNode("goexit", Pure(func(Message) int { runtime.Goexit(); return 1 })),
		newNode("ignored", func(_ context.Context, _ Message, out func(any) error) error {
			_ = out(make(chan int))
			return nil
		}),
		newNode("large", Pure(func(Message) string { return strings.Repeat("x", 1<<20) })),
		newNode("long", failing(errors.New(strings.Repeat("y", 1<<21)))),
		newNode("late", func(_ context.Context, _ Message, out func(int) error) error { late = out; return nil }),
		newNode("fits", Each(func(in countIn, _ func(int) error) error { return nil })),
	), "json")
	for node, wanted := range map[string]Message{
		"plain":   {"type": "error", "message": "as asked"},
		"caused":  {"type": "badError", "message": `bad \xff`, "cause": Message{"type": "error", "message": "middle: file does not exist", "cause": Message{"type": "error", "message": "file does not exist"}}},
		"joined":  {"type": "error", "message": "one\ntwo", "cause": Message{"type": "error", "message": "one"}},
		"retry":   {"type": "error", "message": "outer: busy", "retry": true, "after": 1.5, "cause": Message{"type": "Retry", "message": "busy"}},
		"again":   {"type": "Retry", "message": "try again", "retry": true},
		"reject":  {"type": "Reject", "message": "never", "retry": false},
		"nil":     {"type": "nilError", "message": "(no text: the Error method of *emit.nilError panicked)"},
		"busy":    {"type": "Retry", "message": "(no text: the Error method of *emit.nilError panicked)", "retry": true},
		"goexit":  {"type": "error", "message": "the handler has ended its goroutine"},
		"ignored": {"type": "EncodeError", "message": "result is a chan int, which no codec carries"},
		"large":   {"type": "FrameTooLarge", "message": "large emitted a result of 1048578 bytes; a frame holds at most 1048576: emit less at once, or raise max_frame of the node"},
		"fits":    {"type": "DecodeError", "message": `fits: message lacks "n"; it has: `},
		"nobody":  {"type": "error", "message": `there is no node "nobody" in this program; it has: ` + strings.Join(k.session.names(), ", ")},
	} {
		got := k.call(node, Message{})
		delete(got, "op")
		delete(got, "id")
		if stack, _ := got["stack"].([]any); (len(stack) != 1 || !strings.Contains(stack[0].(string), ".go:")) && node != "nobody" {
			t.Error(node, stack)
		}
		delete(got, "stack")
		if !reflect.DeepEqual(got, wanted) {
			t.Errorf("%s: %v", node, got)
		}
	}
	for node, wanted := range map[string]string{"panic": "oh", "native": "index out of range"} {
		got := k.call(node, Message{})
		stack, _ := got["stack"].([]any)
		if got["type"] != "panic" || !strings.Contains(got["message"].(string), wanted) || len(stack) == 0 || !strings.Contains(stack[0].(string), "errors_test.go:") {
			t.Errorf("%s: %v", node, got)
		}
	}
	if got := k.call("long", Message{}); len(got["message"].(string)) > maxText+100 {
		t.Error(len(got["message"].(string)))
	}
	k.call("late", Message{})
	if err := late(1); err == nil || !strings.Contains(err.Error(), "the call has ended") {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a negative delay is none")
		}
	}()
	_ = Retry(nil, -1)
}

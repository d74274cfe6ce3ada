// The program under test of `emit conformance`: see tests/conformance/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	emit "github.com/emit-graph/emit/sdks/go"
)

type (
	none  struct{}
	value struct {
		Value any `json:"value"`
	}
	number struct {
		N int `json:"n"`
	}
	failing struct {
		Text  string `json:"text"`
		Cause string `json:"cause,omitempty"`
	}
	waiting struct {
		Seconds float64 `json:"seconds"`
	}
)

func main() {
	register("echo", emit.Pure(func(in value) any { return in.Value }))
	register("none", emit.Each(func(none, func(any) error) error { return nil }))
	register("count", emit.Each(count))
	register("text", emit.Pure(func(in number) string { return strings.Repeat("x", in.N) }))
	register("slow", emit.Pure(slow))
	register("fail", emit.Each(fail))
	register("partial", emit.Each(partial))
	register("print", emit.Map(print))
	register("kind", emit.Pure(func(in value) string { return kind(in.Value) }))
	register("bad", emit.Pure(bad))
	register("deep", emit.Pure(deep))
	register("wide", emit.Pure(func(in number) []int { return make([]int, in.N) }))
	register("native", emit.Pure(func(none) int { return []int{}[len(os.Args)] }))
	register("retry", emit.Each(retry))
	register("reject", emit.Each(func(in failing, _ func(any) error) error { return emit.Reject(errors.New(in.Text)) }))
	register("stdin", emit.Map(stdin))
	register("log", log)
	register("context", emit.MapContext(about))
	register("trickle", emit.Each(trickle))
	register("wait", wait)
	register("spin", emit.Pure(spin))
	register("meet", emit.Pure(meet))
	register("late", emit.MapContext(late))
	register("leave", emit.Pure(func(none) int { os.Exit(0); return 0 }))
	if n, err := strconv.Atoi(os.Getenv("CONFORMANCE_CONCURRENCY")); err == nil {
		emit.Concurrency(n)
	}
	emit.Run()
	fmt.Fprintln(os.Stderr, "cleaned up")
}

// register a node, unless the environment names others.
func register[In, Out any](name string, handler emit.Handler[In, Out]) {
	chosen := os.Getenv("CONFORMANCE_NODES")
	if chosen == "" || slices.Contains(strings.Split(chosen, ","), name) {
		emit.Node(name, handler)
	}
}

func count(in number, out func(int) error) error {
	for n := 0; n < in.N; n++ {
		if err := out(n); err != nil {
			return err
		}
	}
	return nil
}

func slow(in struct {
	Seconds float64 `json:"seconds"`
	Value   any     `json:"value"`
}) any {
	time.Sleep(seconds(in.Seconds))
	return in.Value
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

type caused struct {
	text  string
	cause error
}

func (c *caused) Error() string { return c.text }
func (c *caused) Unwrap() error { return c.cause }

func fail(in failing, _ func(any) error) error {
	if in.Cause == "" {
		return errors.New(in.Text)
	}
	return &caused{in.Text, errors.New(in.Cause)}
}

func partial(in struct {
	N    int    `json:"n"`
	Text string `json:"text"`
}, out func(int) error) error {
	if err := count(number{in.N}, out); err != nil {
		return err
	}
	return errors.New(in.Text)
}

func print(in failing) (string, error) {
	fmt.Print(in.Text)
	child := exec.Command("printf", "%s", in.Text)
	child.Stdout = os.Stdout
	return "printed", child.Run()
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case int64, uint64:
		return "int"
	case float64:
		return "float"
	case string:
		return "text"
	case []byte:
		return "bytes"
	case time.Time:
		return "time"
	case []any:
		return "list"
	case map[string]any:
		return "map"
	}
	return fmt.Sprintf("%T", v)
}

func bad(in struct {
	What string `json:"what"`
}) any {
	culprits := map[string]any{
		"nan": math.NaN(), "infinity": math.Inf(1), "bytes": []byte{0, 0xff}, "time": time.Now(),
		"big": new(big.Int).Lsh(big.NewInt(1), 64), "small": new(big.Int).SetBits([]big.Word{1<<63 + 1}),
		"surrogate": "\xff", "key": map[int]string{1: "one"}, "object": make(chan int),
	}
	culprits["small"] = new(big.Int).Neg(culprits["small"].(*big.Int))
	return map[string]any{"items": []any{0, map[string]any{"price": culprits[in.What]}}}
}

func deep(in number) any {
	lists := []any{}
	for range in.N - 1 {
		lists = []any{lists}
	}
	return lists
}

func retry(in struct {
	Text  string  `json:"text"`
	After float64 `json:"after,omitempty"`
}, _ func(any) error) error {
	return emit.Retry(errors.New(in.Text), seconds(in.After))
}

func stdin(none) (string, error) {
	own, err := io.ReadAll(os.Stdin)
	if err != nil {
		return "", err
	}
	cat := exec.Command("cat")
	cat.Stdin = os.Stdin
	childs, err := cat.Output()
	return string(own) + string(childs), err
}

func log(ctx context.Context, in struct {
	Level string `json:"level"`
	Text  string `json:"text"`
}, _ func(any) error) error {
	level := map[string]slog.Level{"warning": slog.LevelWarn, "error": slog.LevelError, "critical": slog.LevelError + 4}[in.Level]
	slog.Log(ctx, level, in.Text)
	return nil
}

func about(ctx context.Context, _ none) (map[string]any, error) {
	call := emit.FromContext(ctx)
	deadline, ok := ctx.Deadline()
	of := map[string]any{
		"id": call.ID, "node": call.Node, "origin": orNull(call.Origin), "attempt": call.Attempt,
		"traceparent": orNull(call.Traceparent), "config": call.Config, "has_deadline": ok, "remaining": nil,
	}
	if ok {
		of["remaining"] = time.Until(deadline).Seconds()
	}
	return of, nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func trickle(in struct {
	N       int     `json:"n"`
	Seconds float64 `json:"seconds"`
}, out func(int) error) error {
	for n := range in.N {
		if err := out(n); err != nil {
			return err
		}
		time.Sleep(seconds(in.Seconds))
	}
	return nil
}

func wait(ctx context.Context, in waiting, out func(string) error) error {
	if err := out("began"); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return out("cancelled")
	case <-time.After(seconds(in.Seconds)):
		return out("waited")
	}
}

func spin(in waiting) string {
	for end := time.Now().Add(seconds(in.Seconds)); time.Now().Before(end); {
	}
	return "spun"
}

var meeting struct {
	sync.Mutex
	now, most int
}

func meet(in struct {
	N       int     `json:"n"`
	Seconds float64 `json:"seconds"`
}) int {
	meetings(1)
	defer meetings(-1)
	for end := time.Now().Add(seconds(in.Seconds)); meetings(0) < in.N && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return meetings(0)
}

// meetings counts some in, and returns the most there were.
func meetings(more int) int {
	meeting.Lock()
	defer meeting.Unlock()
	meeting.now += more
	meeting.most = max(meeting.most, meeting.now)
	return meeting.most
}

func late(ctx context.Context, in waiting) (string, error) {
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(seconds(in.Seconds)):
		return "waited", nil
	}
}

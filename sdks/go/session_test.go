package emit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// A talk is the other end of the pipes of a session in this process.
type talk struct {
	t       *testing.T
	codec   codec
	in, out *os.File
	read    input
	session *session
	ended   chan error
}

func converse(t *testing.T, p *program, codecs ...string) *talk {
	t.Helper()
	return converseWithin(t, 1<<20, p, codecs...)
}

func converseWithin(t *testing.T, maxFrame int, p *program, codecs ...string) *talk {
	t.Helper()
	theirs, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	k := &talk{t: t, codec: jsonCodec{}, in: in, out: out, read: input{file: out}, ended: make(chan error, 1)}
	h := &hello{Op: "hello", V: []int64{1}, Codecs: codecs, Node: "x", MaxFrame: maxFrame, Config: Message{"shop": "north"}}
	k.session = newSession(p, h, ours)
	k.session.greet()
	if ready := k.frame(); ready["codec"] != k.session.codec.name() {
		t.Fatal(ready)
	}
	k.codec = k.session.codec
	go func() {
		k.ended <- k.session.read(&input{file: theirs})
		k.session.end()
	}()
	t.Cleanup(func() { in.Close(); <-k.session.over; ours.Close(); out.Close(); theirs.Close() })
	return k
}

func (k *talk) send(frames ...Message) {
	k.t.Helper()
	var data []byte
	for _, f := range frames {
		body, err := encode(k.codec, nil, f)
		if err != nil {
			k.t.Fatal(err)
		}
		data = k.codec.frame(data, body)
	}
	if _, err := k.in.Write(data); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) frame() (f Message) {
	k.t.Helper()
	for {
		body, rest, whole := k.codec.split(k.read.data)
		if k.read.data = rest; whole {
			if err := decode(k.codec, body, &f); err != nil {
				k.t.Fatal(err)
			}
			return f
		}
		if k.read.end {
			return nil
		}
		k.read.fill()
	}
}

// answer returns the frame that ends a call, with the results of those before it.
func (k *talk) answer() Message {
	k.t.Helper()
	f, results := k.frame(), []any{}
	for f["op"] == "out" {
		results, f = append(results, f["msgs"].([]any)...), k.frame()
	}
	if f["op"] == "end" {
		msgs, _ := f["msgs"].([]any)
		f["msgs"] = append(results, msgs...)
	}
	return f
}

func (k *talk) call(node string, msg Message) Message {
	k.t.Helper()
	k.send(Message{"op": "call", "id": 7, "node": node, "msg": msg})
	return k.answer()
}

func programOf(concurrency int, nodes ...*node) *program {
	p := &program{concurrency: concurrency}
	for _, n := range nodes {
		p.add(n)
	}
	return p
}

type countIn struct {
	N int `json:"n"`
}

func countTo(_ context.Context, in countIn, out func(int) error) error {
	for n := range in.N {
		if err := out(n); err != nil {
			return err
		}
	}
	return nil
}

func (in countIn) double() int        { return 2 * in.N }
func (in countIn) half() (int, error) { return in.N / 2, nil }

func bothCodecs(t *testing.T, test func(t *testing.T, codec string)) {
	for _, c := range codecs {
		t.Run(c.name(), func(t *testing.T) { test(t, c.name()) })
	}
}

func numbers(n int) []any {
	list := []any{}
	for i := range n {
		list = append(list, int64(i))
	}
	return list
}

func TestResultsAndStreams(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		k := converse(t, programOf(1, newNode("count", countTo), newNode("null", Pure(func(Message) any { return nil }))), codec)
		for _, n := range []int{0, 1, 20, 50_000} {
			if got := k.call("count", Message{"n": n, "other": nil}); got["id"] != int64(7) || !reflect.DeepEqual(got["msgs"], numbers(n)) {
				t.Error(n, got["id"], len(got["msgs"].([]any)))
			}
		}
		if got := k.call("null", Message{}); !reflect.DeepEqual(got["msgs"], []any{nil}) {
			t.Error(got)
		}
	})
}

func TestBacklogIsAnsweredInOrder(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		k := converse(t, programOf(1, newNode("echo", Pure(func(m Message) any { return m["value"] }))), codec)
		var calls []Message
		for n := range 3000 {
			calls = append(calls, Message{"op": "call", "id": n, "msg": Message{"value": n}, "meta": Message{"attempt": 1}})
		}
		go k.send(calls...)
		for n := range int64(3000) {
			if got := k.answer(); got["id"] != n || !reflect.DeepEqual(got["msgs"], []any{n}) {
				t.Fatal(n, got)
			}
		}
	})
}

func TestNoResultWaitsForASlowHandler(t *testing.T) {
	proceed := make(chan bool)
	k := converse(t, programOf(1, newNode("slow", func(_ context.Context, _ Message, out func(string) error) error {
		err := out("first")
		<-proceed
		return errors.Join(err, out("last"))
	}), newNode("quick", Pure(func(Message) int { return 1 }))), "json")
	k.send(Message{"op": "call", "id": 1, "node": "quick", "msg": Message{}}, Message{"op": "call", "id": 2, "node": "slow", "msg": Message{}})
	if got := k.answer(); got["id"] != int64(1) {
		t.Error(got)
	}
	if got := k.frame(); got["op"] != "out" || !reflect.DeepEqual(got["msgs"], []any{"first"}) {
		t.Error(got)
	}
	k.send(Message{"op": "ping", "n": 5})
	if got := k.frame(); got["op"] != "pong" || got["n"] != int64(5) {
		t.Error(got)
	}
	close(proceed)
	if got := k.answer(); !reflect.DeepEqual(got["msgs"], []any{"last"}) {
		t.Error(got)
	}
}

func TestConcurrency(t *testing.T) {
	arrived, proceed := make(chan bool), make(chan bool)
	k := converse(t, programOf(3, newNode("meet", Pure(func(m Message) any {
		arrived <- true
		<-proceed
		return m["n"]
	}))), "msgpack")
	for n := range 5 {
		k.send(Message{"op": "call", "id": n, "msg": Message{"n": n}})
	}
	for range 3 {
		<-arrived
	}
	select {
	case <-arrived:
		t.Error("more calls at a time than were announced")
	case <-time.After(20 * time.Millisecond): // no event tells that a fourth does not come
	}
	go func() {
		for range 2 {
			<-arrived
		}
	}()
	close(proceed)
	seen := []int64{}
	for range 5 {
		got := k.answer()
		seen = append(seen, got["id"].(int64))
	}
	if slices.Sort(seen); !reflect.DeepEqual(seen, []int64{0, 1, 2, 3, 4}) {
		t.Error(seen)
	}
}

func TestContext(t *testing.T) {
	type key struct{}
	k := converse(t, programOf(1,
		newNode("about", MapContext(func(ctx context.Context, _ Message) (any, error) {
			c := FromContext(context.WithValue(ctx, key{}, 1))
			deadline, ok := ctx.Deadline()
			soon := time.Until(deadline) < 30*time.Second && time.Until(deadline) > 0
			return []any{c.ID, c.Node, c.Origin, c.Attempt, c.Traceparent, c.Tracestate, c.Config, ok, soon, ctx.Err()}, nil
		})),
		newNode("wait", func(ctx context.Context, _ Message, out func(string) error) error {
			if err := out("began"); err != nil {
				return err
			}
			inner, stop := context.WithCancel(ctx)
			defer stop()
			<-inner.Done()
			return out(fmt.Sprint(ctx.Err(), "; ", inner.Err()))
		}),
		newNode("poll", MapContext(func(ctx context.Context, _ Message) (string, error) {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			<-ctx.Done()
			return ctx.Err().Error(), nil
		})),
		newNode("late", MapContext(func(ctx context.Context, _ Message) (string, error) {
			deadline, _ := ctx.Deadline()
			time.Sleep(time.Until(deadline))
			<-ctx.Done() // nobody has asked before
			return ctx.Err().Error(), nil
		})),
	), "json")
	k.send(Message{"op": "call", "id": 3, "node": "about", "msg": Message{}, "new": []any{1}, "meta": Message{
		"origin": "split", "attempt": 2, "traceparent": "00-aa", "tracestate": "v=1", "deadline_ms": 29000, "new": Message{}}})
	wanted := []any{int64(3), "about", "split", int64(2), "00-aa", "v=1", Message{"shop": "north"}, true, true, nil}
	if got := k.answer(); !reflect.DeepEqual(got["msgs"], []any{wanted}) {
		t.Error(got)
	}
	k.send(Message{"op": "cancel", "id": 99}, Message{"op": "unknown", "id": "x"}, Message{"op": "call", "id": 4, "node": "wait", "msg": Message{}})
	if got := k.frame(); !reflect.DeepEqual(got["msgs"], []any{"began"}) {
		t.Error(got)
	}
	k.send(Message{"op": "call", "id": 5, "node": "about", "msg": Message{}}, Message{"op": "cancel", "id": 5}, Message{"op": "cancel", "id": 4})
	if got := k.answer(); !reflect.DeepEqual(got["msgs"], []any{"context canceled; context canceled"}) {
		t.Error(got)
	}
	if got := k.answer(); got["type"] != "cancelled" || got["id"] != int64(5) {
		t.Error(got)
	}
	for _, node := range []string{"wait", "poll", "late"} {
		k.send(Message{"op": "call", "id": 6, "node": node, "msg": Message{}, "meta": Message{"deadline_ms": 20}})
		if got := k.answer(); !strings.Contains(fmt.Sprint(got["msgs"]), "context deadline exceeded") {
			t.Error(node, got)
		}
	}
}

func TestFramesThatAreCut(t *testing.T) {
	long := strings.Repeat("\x01é", 2000)
	failing := failure{Type: "error", Message: long, Stack: []string{long}, Cause: &failure{Message: long}}
	for _, c := range codecs {
		s := newSession(programOf(1), &hello{MaxFrame: 1000}, nil)
		s.codec = c
		for field, frame := range map[string]any{
			"message": errFrame{"err", nil, failing},
			"text":    logFrame{Op: "log", Level: "info", Text: long, Fields: Message{"long": long}},
		} {
			var cut Message
			body, _, _ := c.split(s.encoded(frame))
			if err := decode(c, body, &cut); err != nil || len(body) > 1000 {
				t.Fatalf("%d bytes, %v", len(body), err)
			}
			if text := cut[field].(string); text == "" || !strings.HasPrefix(long, text) {
				t.Errorf("%s: %q", field, text)
			}
		}
	}
}

func TestBrokenFrames(t *testing.T) {
	for _, line := range []string{"{", `{"op":"call","msg":{}}`, `{"op":"call","id":null,"msg":{}}`, `{"op":"call","id":"1","msg":{}}`, "[]", `{"op":1}`} {
		k := converse(t, programOf(1, newNode("count", countTo)), "json")
		if _, err := k.in.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := <-k.ended; err == nil || !strings.Contains(err.Error(), "frame from the host is broken") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestABrokenCallWithAnIDIsAnswered(t *testing.T) {
	k := converse(t, programOf(1, newNode("count", countTo)), "json")
	for _, rest := range []string{"", `,"msg":null`, `,"msg":[1]`, `,"msg":{},"node":5`, `,"msg":{},"meta":"now"`, `,"msg":{`} {
		if _, err := k.in.WriteString(`{"op":"call","id":7` + rest + "}\n"); err != nil {
			t.Fatal(err)
		}
		if got := k.answer(); got["op"] != "err" || got["id"] != int64(7) {
			t.Errorf("%s: %v", rest, got)
		}
	}
	k.send(Message{"op": "call", "id": 8, "msg": Message{"n": 1}})
	if got := k.answer(); got["op"] != "end" || got["id"] != int64(8) {
		t.Error(got)
	}
}

func TestEndFinishesWhatWasAccepted(t *testing.T) {
	proceed := make(chan bool)
	k := converse(t, programOf(1, newNode("slow", Pure(func(m Message) any { <-proceed; return m["n"] }))), "json")
	k.send(Message{"op": "call", "id": 1, "msg": Message{"n": 1}}, Message{"op": "call", "id": 2, "msg": Message{"n": 2}}, Message{"op": "bye"})
	if err := <-k.ended; err != nil {
		t.Error(err)
	}
	close(proceed)
	for n := range int64(2) {
		if got := k.answer(); got["id"] != n+1 {
			t.Error(got)
		}
	}
	<-k.session.over
}

func TestDeadlineCountsFromTheTurn(t *testing.T) {
	going := make(chan bool)
	slow := newNode("slow", Pure(func(Message) bool { return <-going }))
	left := newNode("left", MapContext(func(ctx context.Context, _ Message) (float64, error) {
		deadline, _ := ctx.Deadline()
		return time.Until(deadline).Seconds(), ctx.Err()
	}))
	k := converse(t, programOf(1, slow, left))
	meta := Message{"deadline_ms": 60000}
	k.send(Message{"op": "call", "id": 1, "node": "slow", "msg": Message{}, "meta": meta},
		Message{"op": "call", "id": 2, "node": "left", "msg": Message{}, "meta": meta})
	time.Sleep(time.Second) // which the second call has to wait at least
	going <- true
	k.answer()
	if seconds := k.answer()["msgs"].([]any)[0].(float64); seconds < 59.1 || seconds > 60 {
		t.Error(seconds)
	}
}

func TestFailureOfTheDeadlineIsATimeout(t *testing.T) {
	late := newNode("late", MapContext(func(ctx context.Context, in Message) (int, error) {
		if in["value"] == "early" {
			return 0, context.DeadlineExceeded
		}
		<-ctx.Done()
		switch in["value"] {
		case "wrapped":
			return 0, fmt.Errorf("no answer: %w", ctx.Err())
		case "a file":
			return 0, os.ErrDeadlineExceeded
		case "rejected":
			return 0, Reject(ctx.Err())
		case "a panic":
			panic(ctx.Err())
		}
		return 0, errors.New("mine")
	}))
	k := converse(t, programOf(1, late))
	for how, timeout := range map[string]any{
		"wrapped": true, "a file": true, "a panic": true, "rejected": nil, "other": nil, "early": nil,
	} {
		milliseconds := 20
		if how == "early" {
			milliseconds = 60000
		}
		k.send(Message{"op": "call", "id": 1, "msg": Message{"value": how}, "meta": Message{"deadline_ms": milliseconds}})
		if f := k.answer(); f["op"] != "err" || f["timeout"] != timeout {
			t.Error(how, f)
		}
	}
}

func TestOneNodeHasAnyName(t *testing.T) {
	k := converse(t, programOf(1, newNode("one", MapContext(func(ctx context.Context, _ Message) (string, error) {
		return FromContext(ctx).Node, nil
	}))))
	k.send(Message{"op": "call", "id": 1, "msg": Message{}})
	for _, f := range []Message{k.answer(), k.call("another", Message{})} {
		if !reflect.DeepEqual(f["msgs"], []any{"one"}) {
			t.Error(f)
		}
	}
}

func TestSeveralNodesRefuseANameThatNoneHas(t *testing.T) {
	one := Pure(func(Message) int { return 1 })
	k := converse(t, programOf(1, newNode("one", one), newNode("two", one)))
	k.send(Message{"op": "call", "id": 1, "msg": Message{}})
	for _, name := range []string{"x", "three"} {
		if name == "three" {
			k.send(Message{"op": "call", "id": 2, "node": name, "msg": Message{}})
		}
		want := fmt.Sprintf("there is no node %q in this program; it has: one, two", name)
		if f := k.answer(); f["message"] != want {
			t.Error(f)
		}
	}
}

func TestReadyLeavesOutWhatHasNoRoom(t *testing.T) {
	out, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	type wide struct{ First, Second, Third, Fourth, Fifth, Sixth, Seventh, Eighth, Ninth int }
	p := programOf(1, newNode(strings.Repeat("name", 30), Pure(func(wide) int { return 1 })))
	s := newSession(p, &hello{MaxFrame: 270}, ours)
	if err := s.greet(); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	k := &talk{t: t, codec: jsonCodec{}, read: input{file: out}}
	if f := k.frame(); f["op"] != "ready" || f["inputs"] != nil {
		t.Error(f)
	}
	if err := newSession(p, &hello{MaxFrame: 200}, ours).greet(); err == nil || !strings.Contains(err.Error(), "max_frame") {
		t.Error(err)
	}
}

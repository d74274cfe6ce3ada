package emit

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func group(node string, id int, msgs []any, more Message) Message {
	f := Message{"op": "calls", "id": id, "node": node, "msgs": msgs}
	for key, value := range more {
		f[key] = value
	}
	return f
}

// answers returns the results of count calls by id, or the text of the error, and the ops of the
// frames.
func (k *talk) answers(count int) (found map[int64]any, ops []string) {
	k.t.Helper()
	found = map[int64]any{}
	for done := 0; done < count; {
		f := k.frame()
		if f == nil {
			k.t.Fatal("it ended after ", found)
		}
		op, id := f["op"].(string), f["id"].(int64)
		ops = append(ops, op)
		lists, _ := f["msgs"].([]any)
		if op != "ends" {
			lists = []any{f["msgs"]}
		}
		for i, list := range lists {
			if msgs, ok := list.([]any); ok {
				before, _ := found[id+int64(i)].([]any)
				found[id+int64(i)] = append(append([]any{}, before...), msgs...)
			} else {
				found[id+int64(i)] = f["message"]
			}
		}
		if op != "out" {
			done += len(lists)
		}
	}
	return found, ops
}

func echoOrFail(m Message) (any, error) {
	if text, ok := m["fail"].(string); ok {
		return nil, errors.New(text)
	}
	return m["value"], nil
}

func TestGroups(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		k := converse(t, programOf(1, newNode("echo", Map(echoOrFail)), newNode("count", countTo)), codec)
		msgs, want := []any{}, map[int64]any{}
		for n := range 1000 {
			msgs = append(msgs, Message{"value": n})
			want[int64(n)] = []any{int64(n)}
		}
		k.send(group("echo", 0, msgs, nil))
		if got, ops := k.answers(1000); !reflect.DeepEqual(got, want) || len(ops) > 500 {
			t.Error(len(got), len(ops))
		}
		k.send(group("count", 7, []any{Message{"n": 0}, Message{"n": 2}, Message{"n": 1}}, nil))
		if got, _ := k.answers(3); fmt.Sprint(got) != "map[7:[] 8:[0 1] 9:[0]]" {
			t.Error(got)
		}
		k.send(group("echo", 5, []any{Message{"value": 1}, Message{"fail": "no"}, Message{"value": nil}}, nil))
		if got, _ := k.answers(3); fmt.Sprint(got) != "map[5:[1] 6:no 7:[<nil>]]" {
			t.Error(got)
		}
	})
}

// An older host sends no groups, and knows none.
func TestWithoutGroupsEachAnswerIsAFrame(t *testing.T) {
	k := converse(t, programOf(1, newNode("echo", Map(echoOrFail))), "json")
	var calls []Message
	for n := range 50 {
		calls = append(calls, Message{"op": "call", "id": n, "msg": Message{"value": n}})
	}
	k.send(calls...)
	if got, ops := k.answers(50); len(got) != 50 || strings.Contains(strings.Join(ops, " "), "ends") {
		t.Error(got, ops)
	}
}

func TestMetaOfAGroup(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		k := converse(t, programOf(1, newNode("meta", MapContext(func(ctx context.Context, _ Message) (any, error) {
			c := FromContext(ctx)
			return []any{c.ID, c.Origin, c.Attempt}, nil
		}))), codec)
		both := []any{Message{}, Message{}}
		metas := []any{Message{"attempt": 3}, nil}
		k.send(group("meta", 3, both, Message{"metas": metas, "meta": Message{"origin": "a", "attempt": 2}}))
		if got, _ := k.answers(2); fmt.Sprint(got) != "map[3:[[3 a 3]] 4:[[4 a 2]]]" {
			t.Error(got)
		}
		k.send(group("meta", 5, both, Message{"metas": []any{nil, Message{"origin": "b"}}}))
		if got, _ := k.answers(2); fmt.Sprint(got) != "map[5:[[5  1]] 6:[[6 b 1]]]" {
			t.Error(got)
		}
	})
}

func TestAnswersAreSplitAtMaxFrame(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		k := converseWithin(t, 1000, programOf(1, newNode("text", Pure(func(in countIn) string { return strings.Repeat("x", in.N) }))), codec)
		msgs := []any{}
		for _, n := range []int{300, 300, 600, 900, 1100, 5} {
			msgs = append(msgs, Message{"n": n})
		}
		k.send(group("text", 1, msgs, nil))
		got, _ := k.answers(6)
		if text, _ := got[5].(string); !strings.Contains(text, "1000") {
			t.Error(got[5])
		}
		for id, size := range map[int64]int{1: 300, 2: 300, 3: 600, 4: 900, 6: 5} {
			if msgs, ok := got[id].([]any); !ok || len(msgs[0].(string)) != size {
				t.Error(id, got[id])
			}
		}
	})
}

func TestNoAnswerOfAGroupWaitsForTheNextCall(t *testing.T) {
	proceed := make(chan bool)
	k := converse(t, programOf(1, newNode("wait", Pure(func(m Message) any {
		if m["wait"] == true {
			<-proceed
		}
		return 1
	}))), "json")
	k.send(group("wait", 1, []any{Message{}, Message{}, Message{"wait": true}}, nil))
	if got, _ := k.answers(2); got[1] == nil || got[2] == nil {
		t.Error(got)
	}
	close(proceed)
	k.answers(1)
}

func TestCallsOfAGroupRunAtATimeAndAreCancelled(t *testing.T) {
	k := converse(t, programOf(2, newNode("wait", func(ctx context.Context, _ Message, out func(string) error) error {
		if err := out("began"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})), "msgpack")
	k.send(group("wait", 1, []any{Message{}, Message{}, Message{}}, nil))
	for range 2 {
		if f := k.frame(); f["op"] != "out" {
			t.Error(f)
		}
	}
	k.send(Message{"op": "cancel", "id": 3}, Message{"op": "cancel", "id": 1}, Message{"op": "cancel", "id": 2})
	want := map[int64]any{1: "context canceled", 2: "context canceled", 3: "cancelled by the host before it began"}
	if got, _ := k.answers(3); !reflect.DeepEqual(got, want) {
		t.Error(got)
	}
}

func TestBrokenGroups(t *testing.T) {
	bothCodecs(t, func(t *testing.T, codec string) {
		one := []any{Message{}}
		for _, fields := range []Message{
			{"id": 1},
			{"id": 1, "msgs": []any{}},
			{"id": 1, "msgs": []any{Message{}, 110}}, // in msgpack the byte of an n, as in null
			{"id": 1, "msgs": []any{Message{}, nil}},
			{"id": 1, "msgs": Message{}},
			{"id": "1", "msgs": one},
			{"msgs": one},
			{"id": 1, "msgs": one, "metas": []any{}},
			{"id": 1, "msgs": one, "metas": []any{123}}, // the byte of a brace
			{"id": 1, "msgs": one, "metas": []any{Message{"attempt": "x"}}},
			{"id": 1, "msgs": one, "meta": 1},
			{"id": 1, "msgs": one, "node": 1},
		} {
			k := converse(t, programOf(1, newNode("echo", Map(echoOrFail))), codec)
			fields["op"] = "calls"
			k.send(fields)
			if err := <-k.ended; err == nil || !strings.Contains(err.Error(), "broken") {
				t.Error(fields, err)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	for text, want := range map[string]string{
		`{"shop":{"name":"north"}}`: "{\"shop\":{\"name\":\"north\"}}\n",
		"":                          "{}\n",
	} {
		printed, _, status := byHand(t, "{}", "EMIT_NODE=config", "EMIT_CONFIG="+text)
		if printed != want || status != 0 {
			t.Error(printed, status)
		}
	}
	for _, text := range []string{"secret", `["secret"]`, `{"n":"secret"`, "null"} {
		_, said, status := byHand(t, "{}", "EMIT_NODE=config", "EMIT_CONFIG="+text)
		if status != 1 || !strings.Contains(said, "EMIT_CONFIG is not a map") || strings.Contains(said, "secret") {
			t.Error(said, status)
		}
	}
	if c := FromContext(context.Background()); c.Attempt != 1 || c.Config == nil || len(c.Config) != 0 {
		t.Error(c)
	}
}

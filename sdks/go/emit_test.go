package emit

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
)

func TestRegistration(t *testing.T) {
	defer func(p *program) { registered = p }(registered)
	registered = &program{concurrency: 1}
	Node("a", countTo)
	Concurrency(2)
	if about := registered.ready(); !reflect.DeepEqual(about.Nodes, []string{"a"}) || about.Concurrency != 2 || registered.failure != nil {
		t.Error(about, registered.failure)
	}
	Node("a", countTo)
	Concurrency(0)
	if err := registered.failure; err == nil || !strings.Contains(err.Error(), `"a" is taken`) {
		t.Error(err)
	}
}

func functional(Message) int { return 1 }

func TestNames(t *testing.T) {
	program := filepath.Base(os.Args[0])
	literal := func(Message) func() {
		return func() {}
	}
	for _, c := range []struct {
		function any
		wanted   string
	}{
		{countTo, "countTo"},
		{functional, "functional"},
		{authors(Pure(countIn.double)), "double"},
		{authors(Map(countIn.half)), "half"},
		{countIn{}.double, "double"},
		{literal, program},
		{literal(nil), program},
		{Each[Message, int], program},
	} {
		if name := nameOf(c.function); name != c.wanted {
			t.Errorf("%s, not %s", name, c.wanted)
		}
	}
}

func TestCollectRefusesWhatNoCodecCarries(t *testing.T) {
	_, err := Collect(Pure(func(Message) any { return func() {} }), Message{})
	var refused *EncodeError
	if !errors.As(err, &refused) {
		t.Error(err)
	}
	if got, err := Collect(Pure(func(Message) any { return []byte{1} }), nil); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
}

func TestResultsFromSeveralGoroutines(t *testing.T) {
	const goroutines, each = 8, 20_000
	got, err := Collect(Each(func(_ Message, out func(int) error) error {
		var all sync.WaitGroup
		for range goroutines {
			all.Add(1)
			go func() {
				defer all.Done()
				for n := range each {
					_ = out(n)
				}
			}()
		}
		all.Wait()
		return nil
	}), Message{})
	if err != nil || len(got) != goroutines*each {
		t.Error(len(got), err)
	}
}

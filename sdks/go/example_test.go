package emit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	emit "github.com/emit-graph/emit/sdks/go"
)

type In struct {
	Count int `json:"count"`
}

func Count(ctx context.Context, in In, out func(int) error) error {
	for n := 0; n < in.Count; n++ {
		if err := out(n); err != nil {
			return err
		}
	}
	return nil
}

func ExampleCollect() {
	results, err := emit.Collect(Count, In{3})
	fmt.Println(results, err)
	// Output: [0 1 2] <nil>
}

type Text struct {
	Text string `json:"text"`
}

func ExampleEach() {
	words := emit.Each(func(in Text, out func(string) error) error {
		for _, word := range strings.Fields(in.Text) {
			if err := out(word); err != nil {
				return err
			}
		}
		return nil
	})
	fmt.Println(emit.Collect(words, Text{"the rain"}))
	// Output: [the rain] <nil>
}

func ExampleMap() {
	length := emit.Map(func(in Text) (int, error) {
		if in.Text == "" {
			return 0, emit.Reject(errors.New("no text"))
		}
		return len(in.Text), nil
	})
	fmt.Println(emit.Collect(length, Text{"rain"}))
	fmt.Println(emit.Collect(length, Text{}))
	// Output:
	// [4] <nil>
	// [] no text
}

func ExampleMapContext() {
	attempt := emit.MapContext(func(ctx context.Context, _ emit.Message) (int, error) {
		return emit.FromContext(ctx).Attempt, nil
	})
	fmt.Println(emit.Collect(attempt, emit.Message{}))
	// Output: [1] <nil>
}

func ExamplePure() {
	upper := emit.Pure(func(in Text) string { return strings.ToUpper(in.Text) })
	fmt.Println(emit.Collect(upper, Text{"rain"}))
	// Output: [RAIN] <nil>
}

func ExampleRetry() {
	err := emit.Retry(errors.New("the shop is busy"), 2*time.Second)
	fmt.Println(err)
	// Output: the shop is busy
}

package {{name}}

import (
	"context"
	"reflect"
	"testing"
)

func Test_{{name}}(t *testing.T) {
	var got []Word
	err := {{name}}(context.Background(), Text{"the rain"}, func(word Word) error {
		got = append(got, word)
		return nil
	})
	if wanted := []Word{{"the", 3}, {"rain", 4}}; err != nil || !reflect.DeepEqual(wanted, got) {
		t.Errorf("%v, %v", got, err)
	}
}

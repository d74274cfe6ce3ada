package {{name}}

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	emit "github.com/emit-graph/emit/sdks/go"
)

type Text struct {
	Text string `json:"text"`
}

type Word struct {
	Word   string `json:"word"`
	Length int    `json:"length"`
}

func init() {
	emit.Node("{{name}}", {{name}})
}

// {{name}} emits each word of the text.
func {{name}}(ctx context.Context, in Text, out func(Word) error) error {
	words := strings.Fields(in.Text)
	if len(words) == 0 {
		return emit.Reject(errors.New("there is no word in it"))
	}
	slog.InfoContext(ctx, "splitting", "attempt", emit.FromContext(ctx).Attempt)
	for _, word := range words {
		if err := out(Word{word, len(word)}); err != nil {
			return err
		}
	}
	return nil
}

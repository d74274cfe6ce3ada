package {{name}}

import (
	"context"
	"strings"
)

type Text struct {
	Text string `json:"text"`
}

type Word struct {
	Word   string `json:"word"`
	Length int    `json:"length"`
}

// {{name}} emits each word of the text.
func {{name}}(ctx context.Context, in Text, out func(Word) error) error {
	for _, word := range strings.Fields(in.Text) {
		if err := out(Word{word, len(word)}); err != nil {
			return err
		}
	}
	return nil
}

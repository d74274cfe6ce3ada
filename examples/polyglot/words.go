// Package words has two nodes. They know nothing of Emit.
package words

import (
	"slices"
	"strings"
)

type Document struct{ Text string }

type Counts struct {
	Counts map[string]int `json:"counts"`
}

func Count(document Document) Counts {
	counts := map[string]int{}
	for _, word := range strings.FieldsFunc(document.Text, isNoLetter) {
		if len(word) >= 3 {
			counts[strings.ToLower(word)]++
		}
	}
	return Counts{counts}
}

type Word struct {
	Word    string `json:"word"`
	Letters string `json:"letters,omitempty"`
}

func Letters(word Word) Word {
	letters := []byte(word.Word)
	slices.Sort(letters)
	return Word{word.Word, string(letters)}
}

func isNoLetter(r rune) bool {
	return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r)
}

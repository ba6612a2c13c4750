package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/droverhq/drover/shared/task"
)

// bodyOf returns the msgpack body for JSON text, which must be one object.
func bodyOf(text []byte) ([]byte, error) {
	v, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	args, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the arguments are %s, want a JSON object", shape(v))
	}
	return task.Marshal(args)
}

// decodeJSON reads one JSON value, whose integers stay exact.
func decodeJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("there is nothing")
		}
		return nil, fmt.Errorf("read JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read JSON: something follows the value")
	}
	return exact(v)
}

// exact replaces every number by an integer if it is one, and by a float otherwise.
func exact(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		return number(v.String())
	case []any:
		for i := range v {
			if v[i], err = exact(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = exact(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

// number is a JSON number as it goes into msgpack.
func number(text string) (any, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n, nil
	}
	if !strings.ContainsAny(text, ".eE") {
		return nil, fmt.Errorf("the integer %s has more than 64 bits: give it as a string", text)
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("the number %s: %w", text, errors.Unwrap(err))
	}
	return f, nil
}

// pairs returns the arguments that key=value words spell, as the help of enqueue
// explains them.
func pairs(words []string) (map[string]any, error) {
	args := map[string]any{}
	for _, w := range words {
		key, text, ok := strings.Cut(w, "=")
		key, raw := strings.CutSuffix(key, ":")
		if !ok || key == "" {
			return nil, fmt.Errorf("argument %q: want key=value, or key:=JSON", w)
		}
		var value any
		var err error
		if raw {
			value, err = decodeJSON([]byte(text))
		} else {
			value, err = scalar(text)
		}
		if err == nil {
			err = put(args, strings.Split(key, "."), value)
		}
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", w, err)
		}
	}
	return unlist(args), nil
}

// jsonNumber leaves 007 and +49 alone: those are names, not numbers.
var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

func scalar(text string) (any, error) {
	switch {
	case text == "true", text == "false":
		return text == "true", nil
	case text == "null":
		return nil, nil //nolint:nilnil // nil is the value
	case jsonNumber.MatchString(text):
		return number(text)
	}
	return text, nil
}

// repeated are the values of a key that came more than once.
type repeated []any

func put(at map[string]any, path []string, value any) error {
	key := path[0]
	if key == "" {
		return errors.New("a part of the key is empty")
	}
	have, taken := at[key]
	if len(path) > 1 {
		inner, ok := have.(map[string]any)
		if taken && !ok {
			return fmt.Errorf("%s has a value already, it cannot have keys as well", key)
		}
		if !taken {
			inner = map[string]any{}
			at[key] = inner
		}
		return put(inner, path[1:], value)
	}
	switch have := have.(type) {
	case repeated:
		at[key] = append(have, value)
	case map[string]any:
		return fmt.Errorf("%s has keys already, it cannot have a value as well", key)
	default:
		if taken {
			value = repeated{have, value}
		}
		at[key] = value
	}
	return nil
}

// unlist turns repeated values into plain lists.
func unlist(m map[string]any) map[string]any {
	for k, v := range m {
		switch v := v.(type) {
		case repeated:
			m[k] = []any(v)
		case map[string]any:
			unlist(v)
		}
	}
	return m
}

// shape names what kind of JSON value v is.
func shape(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "true or false"
	}
	return "a number"
}

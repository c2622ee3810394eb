// Package configs reads the configuration file: YAML, strictly decoded, every
// fault with its line. It adds up the options of the packages that they
// configure, and validates all of them before anything starts.
//
// Options are documented in example.yaml, which the tests read.
package configs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"paceline/proxy"
	"paceline/proxy/pair"
)

// DefaultListen is where the proxy listens unless told otherwise.
const DefaultListen = "127.0.0.1:8787"

// Config is a valid configuration.
type Config struct {
	Listen string
	Log    Log
	Server proxy.Options
	Pairs  []pair.Options
}

// Log says what is logged, and how.
type Log struct {
	Level slog.Level
	JSON  bool
}

// Handler returns the handler that writes such a log.
func (l Log) Handler(w io.Writer) slog.Handler {
	o := &slog.HandlerOptions{Level: l.Level}
	if l.JSON {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// Load reads a file. Secrets that it names are read too: an unset variable or
// an unreadable file is a fault of the configuration.
func Load(name string) (*Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return Parse(name, text)
}

// Parse reads a configuration from its text; name stands in errors.
func Parse(name string, text []byte) (*Config, error) {
	d, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	f := file{Listen: DefaultListen}
	if err := d.decode(&f); err != nil {
		return nil, err
	}
	c, err := f.config()
	var at *fault
	if errors.As(err, &at) {
		return nil, d.fault(at.path, "%s", at.message)
	}
	return c, err
}

// fault is what is wrong with the value at a path.
type fault struct{ path, message string }

func (f *fault) Error() string { return f.path + ": " + f.message }

func faultf(path, format string, args ...any) error {
	return &fault{path, fmt.Sprintf(format, args...)}
}

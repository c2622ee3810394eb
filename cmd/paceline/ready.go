package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// ready is what scripts wait for: where everything listens, said once requests
// are answered.
type ready struct {
	Proxy   string   `json:"proxy"`
	Targets []string `json:"targets"`
	Drafts  []string `json:"drafts"`
	PID     int      `json:"pid"`
}

// announce prints r as one line of JSON and writes it to file, if one is
// named. The file appears whole or not at all.
func (r ready) announce(file string) error {
	text, err := json.Marshal(r)
	if err != nil {
		panic("BUG: ready does not encode: " + err.Error())
	}
	text = append(text, '\n')
	if file != "" {
		if err := writeFile(file, text); err != nil {
			return fmt.Errorf("cannot write the ready file: %w", err)
		}
	}
	_, err = os.Stdout.Write(text)
	return err
}

// writeFile replaces a file at once: who reads it sees all of it.
func writeFile(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if e := f.Chmod(0o644); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

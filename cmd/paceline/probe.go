package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"paceline/engine"
	"paceline/engine/vllm"
)

type probeCommand struct {
	URL     string        `arg:"" help:"The engine's base, http://host:port."`
	Model   string        `help:"The model there; default the only one."`
	KeyEnv  string        `help:"Environment variable that holds the API key." placeholder:"NAME"`
	JSON    bool          `help:"Print the capabilities as one JSON object."`
	Timeout time.Duration `default:"30s" help:"How long the probe may take."`
}

func (p *probeCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var o engine.ClientOptions
	if p.KeyEnv != "" {
		o.Header = [][2]string{{"Authorization", "Bearer " + os.Getenv(p.KeyEnv)}}
	}
	c, err := engine.NewClient(p.URL, o)
	if err != nil {
		return err
	}
	defer c.Close()
	caps, err := vllm.New(c, p.Model, vllm.Options{}).Probe(ctx)
	if err != nil {
		return fmt.Errorf("cannot probe: %w", err)
	}
	if p.JSON {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(caps)
	}
	printCapabilities(os.Stdout, &caps)
	return nil
}

// printCapabilities writes what an engine can do as a table, and ends with the
// mode that the proxy would choose for it.
func printCapabilities(out io.Writer, c *engine.Capabilities) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("engine", strings.TrimSpace(c.Dialect+" "+c.Version))
	row("url", c.URL)
	row("model", c.Model)
	row("context", known(c.MaxModelLen, "tokens"))
	row("vocabulary", known(c.VocabSize, "ids")+", fingerprint "+orUnknown(c.Fingerprint))
	row("cache block", known(c.BlockSize, "tokens"))
	row("ends an answer", orUnknown(strings.Trim(fmt.Sprint(c.EOS), "[]")))
	if c.Defaults != nil {
		row("sampling defaults", string(*c.Defaults))
	} else {
		row("sampling defaults", "unknown")
	}
	for _, feature := range []struct {
		name string
		ok   bool
	}{
		{"token ids in and out of /v1/completions", c.TokenPrompts},
		{"token ids out of /v1/chat/completions", c.ChatTokens},
		{"/tokenize renders a chat", c.RenderChat},
		{"/detokenize", c.Detokenize},
		{"/inference/v1/generate", c.ScaleOut},
		{"usage tells cached tokens", c.CachedTokens},
		{"prefix cache", c.PrefixCache},
	} {
		row(feature.name, yes(feature.ok))
	}
	use := ""
	for _, m := range c.Modes {
		text := yes(m.OK)
		if !m.OK && m.Reason != "" {
			text += ": " + m.Reason
		}
		if !m.OK && m.Enable != "" {
			text += "; to enable it: " + m.Enable
		}
		row("mode "+m.Mode, text)
		if m.OK && (use == "" || m.Mode == "score") {
			use = m.Mode
		}
	}
	if use == "" {
		use = "pass-through: nothing can be verified here"
	}
	row("the proxy would use", use)
	w.Flush()
}

func yes(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}

func known(n int, unit string) string {
	if n == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

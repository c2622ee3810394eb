package configs

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"paceline/engine"
	"paceline/engine/vllm"
	"paceline/proxy"
	"paceline/proxy/pair"
	"paceline/proxy/plan"
	"paceline/vocab"
)

// file is the configuration as it is written. Every field is described in
// example.yaml.
type file struct {
	Listen      string     `yaml:"listen"`
	AllowRemote bool       `yaml:"allow_remote"`
	Log         fileLog    `yaml:"log"`
	Server      fileServer `yaml:"server"`
	Pairs       []filePair `yaml:"pairs"`
}

type fileLog struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

type fileServer struct {
	MaxBody     int      `yaml:"max_body"`
	MaxInFlight int      `yaml:"max_in_flight"`
	QueueWait   duration `yaml:"queue_wait"`
	MaxDraft    int      `yaml:"max_draft"`
	ReadTimeout duration `yaml:"read_timeout"`
	IdleTimeout duration `yaml:"idle_timeout"`
	Patience    duration `yaml:"patience"`
	Grace       duration `yaml:"grace"`
}

type filePair struct {
	Name        string          `yaml:"name"`
	Aliases     []string        `yaml:"aliases"`
	Target      fileTarget      `yaml:"target"`
	Drafts      []fileDraft     `yaml:"drafts"`
	Speculation fileSpeculation `yaml:"speculation"`
	ProbeEvery  duration        `yaml:"probe_every"`
}

type fileEndpoint struct {
	URL         string   `yaml:"url"`
	Model       string   `yaml:"model"`
	APIKeyEnv   string   `yaml:"api_key_env"`
	APIKeyFile  string   `yaml:"api_key_file"`
	DialTimeout duration `yaml:"dial_timeout"`
	FirstByte   duration `yaml:"first_byte"`
	Idle        duration `yaml:"idle"`
	MaxIdleConn duration `yaml:"max_idle_conn"`
	MaxConns    int      `yaml:"max_conns"`
}

type fileTarget struct {
	Endpoint fileEndpoint `yaml:",inline"`

	Rounds string        `yaml:"rounds"`
	EOS    []vocab.Token `yaml:"eos"`
}

type fileDraft struct {
	Endpoint fileEndpoint `yaml:",inline"`

	Name string `yaml:"name"`
}

type fileSpeculation struct {
	Off       bool     `yaml:"off"`
	Verify    string   `yaml:"verify"`
	Length    *int     `yaml:"length"`
	Eager     bool     `yaml:"eager"`
	Patience  duration `yaml:"patience"`
	MaxPrompt int      `yaml:"max_prompt"`
}

func (f *file) config() (*Config, error) {
	c := &Config{Listen: f.Listen}
	if err := CheckListen(f.Listen, f.AllowRemote); err != nil {
		return nil, faultf("listen", "%s", err)
	}
	var err error
	if c.Log, err = f.Log.options(); err != nil {
		return nil, err
	}
	if c.Server, err = f.Server.options(); err != nil {
		return nil, err
	}
	if len(f.Pairs) == 0 {
		return nil, faultf("pairs", "name at least one pair of a target and its drafts")
	}
	names := map[string]string{}
	for i := range f.Pairs {
		path := fmt.Sprintf("pairs[%d]", i)
		if err := f.Pairs[i].unique(path, names); err != nil {
			return nil, err
		}
		o, err := f.Pairs[i].options(path)
		if err != nil {
			return nil, err
		}
		c.Pairs = append(c.Pairs, o)
	}
	return c, nil
}

// CheckListen refuses an address that other machines could reach unless they
// are allowed: the proxy has no authentication of its own.
func CheckListen(listen string, allowRemote bool) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("want host:port, not %q", listen)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q is no port", port)
	}
	if allowRemote || host == "localhost" {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil && a.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q can be reached from other machines, and whoever reaches the proxy can use the engines behind it; set allow_remote to mean it", listen)
}

func (l *fileLog) options() (Log, error) {
	var o Log
	if l.Level != "" {
		if err := o.Level.UnmarshalText([]byte(l.Level)); err != nil {
			return o, faultf("log.level", "want debug, info, warn or error, not %q", l.Level)
		}
	}
	switch l.Format {
	case "", "text":
	case "json":
		o.JSON = true
	default:
		return o, faultf("log.format", "want text or json, not %q", l.Format)
	}
	return o, nil
}

func (s *fileServer) options() (proxy.Options, error) {
	var v values
	v.whole("server.max_body", s.MaxBody, 1<<30)
	v.whole("server.max_in_flight", s.MaxInFlight, 1<<20)
	v.whole("server.max_draft", s.MaxDraft, pair.MaxLength)
	v.time("server.queue_wait", s.QueueWait)
	v.time("server.read_timeout", s.ReadTimeout)
	v.time("server.idle_timeout", s.IdleTimeout)
	v.time("server.patience", s.Patience)
	v.time("server.grace", s.Grace)
	return proxy.Options{
		MaxBody: s.MaxBody, MaxInFlight: s.MaxInFlight, QueueWait: time.Duration(s.QueueWait), MaxDraft: s.MaxDraft,
		ReadTimeout: time.Duration(s.ReadTimeout), IdleTimeout: time.Duration(s.IdleTimeout),
		Patience: time.Duration(s.Patience), Grace: time.Duration(s.Grace),
	}, v.err
}

// unique refuses a name that another pair has: a request could not be routed.
func (p *filePair) unique(path string, names map[string]string) error {
	if p.Name == "" {
		return faultf(path+".name", "name the model as clients call it")
	}
	for i, name := range append([]string{p.Name}, p.Aliases...) {
		at := path + ".name"
		if i > 0 {
			at = fmt.Sprintf("%s.aliases[%d]", path, i-1)
		}
		if name == "" {
			return faultf(at, "a name is not empty")
		}
		if other, taken := names[name]; taken {
			return faultf(at, "the name %q is taken by %s", name, other)
		}
		names[name] = at
	}
	return nil
}

func (p *filePair) options(path string) (pair.Options, error) {
	o := pair.Options{Name: p.Name, Aliases: p.Aliases, ProbeEvery: time.Duration(p.ProbeEvery)}
	var v values
	v.time(path+".probe_every", p.ProbeEvery)
	v.time(path+".speculation.patience", p.Speculation.Patience)
	if v.err != nil {
		return o, v.err
	}
	var err error
	if o.Target, err = p.Target.options(path + ".target"); err != nil {
		return o, err
	}
	if o.Policy, err = p.policy(path); err != nil {
		return o, err
	}
	s := &p.Speculation
	o.Eager, o.Patience = s.Eager, time.Duration(s.Patience)
	if s.Length != nil {
		if o.Length = *s.Length; o.Length < 1 || o.Length > pair.MaxLength {
			return o, faultf(path+".speculation.length", "want 1 to %d, not %d (off: true switches speculation off)", pair.MaxLength, o.Length)
		}
	}
	taken := map[string]bool{}
	for i := range p.Drafts {
		at := fmt.Sprintf("%s.drafts[%d]", path, i)
		e, err := p.Drafts[i].Endpoint.options(at)
		if err != nil {
			return o, err
		}
		if e.Name = p.Drafts[i].Name; e.Name == "" {
			e.Name = fmt.Sprintf("draft-%d", i+1)
		}
		if taken[e.Name] {
			return o, faultf(at+".name", "the name %q is taken by another draft of this pair", e.Name)
		}
		taken[e.Name] = true
		o.Drafts = append(o.Drafts, e)
	}
	return o, nil
}

func (p *filePair) policy(path string) (plan.Policy, error) {
	s := &p.Speculation
	o := plan.Policy{Off: s.Off, MaxPrompt: s.MaxPrompt}
	switch s.Verify {
	case "", "auto":
	case "fan-out":
		o.Verify = plan.OnlyFanOut
	case "score":
		o.Verify = plan.OnlyScoring
	default:
		return o, faultf(path+".speculation.verify", "want auto, score or fan-out, not %q", s.Verify)
	}
	switch p.Target.Rounds {
	case "", "auto":
		o.Rounds = pair.Private(p.Target.Endpoint.URL)
	case "allowed":
		o.Rounds = true
	case "never":
	default:
		return o, faultf(path+".target.rounds", "want auto, allowed or never, not %q", p.Target.Rounds)
	}
	var v values
	v.whole(path+".speculation.max_prompt", s.MaxPrompt, 1<<24)
	return o, v.err
}

func (t *fileTarget) options(path string) (pair.Endpoint, error) {
	e, err := t.Endpoint.options(path)
	for i, id := range t.EOS {
		if id < 0 && err == nil {
			err = faultf(fmt.Sprintf("%s.eos[%d]", path, i), "a token id is not negative")
		}
	}
	e.VLLM = vllm.Options{EOS: t.EOS}
	return e, err
}

func (e *fileEndpoint) options(path string) (pair.Endpoint, error) {
	o := pair.Endpoint{URL: e.URL, Model: e.Model}
	if e.URL == "" {
		return o, faultf(path+".url", "where is the endpoint? (http://host:port)")
	}
	var v values
	v.time(path+".dial_timeout", e.DialTimeout)
	v.time(path+".first_byte", e.FirstByte)
	v.time(path+".idle", e.Idle)
	v.time(path+".max_idle_conn", e.MaxIdleConn)
	v.whole(path+".max_conns", e.MaxConns, 1<<20)
	if v.err != nil {
		return o, v.err
	}
	o.Client = engine.ClientOptions{
		DialTimeout: time.Duration(e.DialTimeout), FirstByte: time.Duration(e.FirstByte), Idle: time.Duration(e.Idle),
		MaxIdleConn: time.Duration(e.MaxIdleConn), MaxConns: e.MaxConns,
	}
	c, err := engine.NewClient(e.URL, o.Client)
	if err != nil {
		return o, faultf(path+".url", "%s", err)
	}
	c.Close()
	key, err := e.key(path)
	if key != "" {
		o.Client.Header = append(o.Client.Header, [2]string{"Authorization", "Bearer " + key})
	}
	return o, err
}

// key reads the endpoint's secret from where the configuration says it is.
func (e *fileEndpoint) key(path string) (string, error) {
	var key, at string
	switch {
	case e.APIKeyEnv != "" && e.APIKeyFile != "":
		return "", faultf(path+".api_key_file", "give api_key_env or api_key_file, not both")
	case e.APIKeyEnv != "":
		at = path + ".api_key_env"
		if key = os.Getenv(e.APIKeyEnv); key == "" {
			return "", faultf(at, "the environment variable %s is not set", e.APIKeyEnv)
		}
	case e.APIKeyFile != "":
		at = path + ".api_key_file"
		text, err := os.ReadFile(e.APIKeyFile)
		if err != nil {
			return "", faultf(at, "%s", err)
		}
		if key = strings.TrimSpace(string(text)); key == "" {
			return "", faultf(at, "the file %s is empty", e.APIKeyFile)
		}
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", faultf(at, "the key has a control character in it")
	}
	return key, nil
}

// values checks numbers, and keeps the first fault.
type values struct{ err error }

func (v *values) whole(path string, n, most int) {
	if v.err == nil && (n < 0 || n > most) {
		v.err = faultf(path, "want 0 (the default) to %d, not %d", most, n)
	}
}

func (v *values) time(path string, d duration) {
	const most = duration(24 * time.Hour)
	if v.err == nil && (d < 0 || d > most) {
		v.err = faultf(path, "want 0 (the default) to %v, not %v", time.Duration(most), time.Duration(d))
	}
}

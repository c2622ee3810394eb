// Command paceline serves the proxy, measures it, and tells what an engine can
// do. It holds flags, wiring and signals; what is decided is decided in the
// packages that it wires.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/alecthomas/kong"

	"paceline/configs"
)

// commands are the program's subcommands.
type commands struct {
	Serve   serveCommand   `cmd:"" help:"Serve the proxy: with --config in front of engines of your own, without it in front of the built-in pair."`
	Bench   benchCommand   `cmd:"" help:"Ask the same prompts of the target alone and through the proxy; print how much sooner the answers come and whether they are equal."`
	Probe   probeCommand   `cmd:"" help:"Say what an engine can do, which mode would be used, and which flag enables what is missing."`
	Check   checkCommand   `cmd:"" help:"Read a configuration and say what is wrong with it, with line and column."`
	Health  healthCommand  `cmd:"" help:"Ask a running proxy whether it is healthy; exit 0 or 1 (for containers, which have no curl)."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal stops gracefully; after it a second one kills.
	context.AfterFunc(ctx, stop)
	var c commands
	parsed := kong.Parse(&c,
		kong.Name("paceline"),
		kong.Description("Exact speculative decoding between a small draft endpoint and a large target endpoint, as an OpenAI-compatible proxy."),
		kong.UsageOnError(),
		kong.Vars{"listen": configs.DefaultListen, "profiles": profileNames(), "length": strconv.Itoa(builtinLength)},
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err := parsed.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "paceline: "+err.Error())
		os.Exit(1)
	}
}

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker (see the Makefile); a plain go build leaves it
// empty and the build information tells.
var version string

type versionCommand struct{}

func (versionCommand) Run() error {
	_, err := fmt.Printf("paceline %s\n", versionText())
	return err
}

// versionText is the version with the compiler and the platform.
func versionText() string {
	v, revision := version, ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " " + s.Value
			}
		}
	}
	return fmt.Sprintf("%s%s %s %s/%s", v, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

package main

import (
	"fmt"

	"paceline/configs"
)

type checkCommand struct {
	Config string `required:"" type:"existingfile" help:"The configuration to read."`
}

func (c *checkCommand) Run() error {
	read, err := configs.Load(c.Config)
	if err != nil {
		return err
	}
	fmt.Printf("%s: ok, listens on %s\n", c.Config, read.Listen)
	for _, p := range read.Pairs {
		fmt.Printf("  %s: target %s, %d drafts\n", p.Name, p.Target.URL, len(p.Drafts))
	}
	return nil
}

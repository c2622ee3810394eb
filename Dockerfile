# paceline in a container: one static binary, no shell, no root.
# The test in cmd/paceline/container_test.go runs these very lines outside.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/paceline ./cmd/paceline

FROM scratch
COPY --from=build /out/paceline /paceline
USER 65532:65532
EXPOSE 8787
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/paceline", "health", "http://127.0.0.1:8787"]
ENTRYPOINT ["/paceline"]
# A container's loopback is its own, so it has to listen beyond it. For engines
# of your own: serve --config /etc/paceline.yaml, mounted read-only.
CMD ["serve", "--listen", "0.0.0.0:8787", "--allow-remote"]

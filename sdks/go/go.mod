module github.com/emit-graph/emit/sdks/go

go 1.22

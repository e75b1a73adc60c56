// Read conformance vectors: ./vectors ../../tests/vectors/*.bin
// Prints a line of JSON for each: its name, and what was read or {"refuse": true}. Of scaled.json: the labels at its
// sizes.

#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#include "decode.hpp"

using namespace streamseg;

static Parts parts_of(const std::string& bytes) {
    Parts parts;
    for (size_t at = 0; at < bytes.size(); at += 4 + parts.back().size()) {
        uint32_t length = 0;
        for (size_t i = at; i < at + 4; i++) length = length << 8 | static_cast<uint8_t>(bytes.at(i));
        parts.push_back(bytes.substr(at + 4, length));
    }
    return parts;
}

static json rows_of(const Labels& values, size_t width) {
    json found = json::array();
    for (size_t at = 0; at < values.size(); at += width)
        found.push_back(Labels(values.begin() + at, values.begin() + at + width));
    return found;
}

static json scaled(const json& vector) {
    Mask mask;
    mask.header["shape"] = {vector["labels"].size(), vector["labels"][0].size()};
    for (const json& row : vector["labels"])
        for (const json& label : row) mask.labels.push_back(label);
    json found = json::array();
    for (const json& one : vector["at"]) {
        const Mask other = at(mask, one["shape"][0], one["shape"][1]);
        found.push_back({{"shape", other.header["shape"]}, {"labels", rows_of(other.labels, one["shape"][1])}});
    }
    return {{"labels", vector["labels"]}, {"at", found}};
}

static json decoded(const Parts& parts) {
    Mask mask = decode(parts);
    auto rows = [&](const Labels& values) { return rows_of(values, mask.header["shape"][1]); };
    json all = mask.header;
    if (all["kind"] == "picture") {
        std::string hex;
        for (const char byte : parts[2]) {
            hex += "0123456789abcdef"[(byte >> 4) & 15];
            hex += "0123456789abcdef"[byte & 15];
        }
        all["jpeg"] = hex;
    }
    if (!mask.labels.empty()) all["labels"] = rows(mask.labels);
    if (!mask.confidence.empty()) all["confidence"] = rows(mask.confidence);
    return all;
}

static json read(const Parts& parts) {
    if (parts.at(0) != "snapshot") return decoded(parts);
    if (static_cast<uint8_t>(parts.at(1)[0]) < 0x80)  // text, so it is a request
        return {{"prefixes", std::vector<std::string>(parts.begin() + 1, parts.end())}};
    const Snapshot snapshot = parse_snapshot(parts);
    json messages = json::array();
    for (const Parts& message : snapshot.messages) messages.push_back(decoded(message));
    return {{"run", snapshot.run}, {"messages", messages}};
}

int main(int count, char** paths) {
    for (int i = 1; i < count; i++) {
        std::ifstream file(paths[i], std::ios::binary);
        const std::string bytes{std::istreambuf_iterator<char>(file), {}};
        const std::filesystem::path path = paths[i];
        json output;
        try {
            output = path.extension() == ".json" ? scaled(json::parse(bytes)) : read(parts_of(bytes));
        } catch (const std::exception&) {
            output = {{"refuse", true}};
        }
        std::cout << json{{"name", path.stem()}, {"output", output}}.dump() << "\n";
    }
}

// From the parts of a message to what they say: docs/protocol.md without the sockets.
#pragma once

#include <png.h>
#include <zstd.h>

#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace streamseg {

using json = nlohmann::json;
using Parts = std::vector<std::string>;  // each part's bytes
using Labels = std::vector<uint8_t>;     // height × width, row by row; 255 is unknown

struct Mask {
    json header;  // its fields by name; a label set, a picture and a status have no labels
    Labels labels, confidence;
};

struct Snapshot {
    uint64_t run;
    std::vector<Parts> messages;
};

inline void must(bool right, const char* what) {
    if (!right) throw std::runtime_error(std::string("not a message of version 1: ") + what);
}

inline void must_be_size(const json& shape) {
    must(shape.is_array() && shape.size() == 2, "shape");
    for (const json& side : shape) must(side.is_number_integer() && side >= 1 && side <= 16384, "shape");
    must(shape[0].get<uint64_t>() * shape[1].get<uint64_t>() <= 1 << 26, "shape");
}

inline void must_be_count(const json& header, const char* field) {
    must(header.at(field).is_number_integer() && header[field] >= 0, field);
    must(header[field] < int64_t{1} << 53, field);
}

inline void must_be_state(const json& header) {
    const std::string state = header.at("state");
    bool known = false;
    for (const char* one : {"connecting", "playing", "paused", "reconnecting", "ended", "failed"})
        known = known || state == one;
    must(known && header.at("unix_ns").is_number_integer() && header["unix_ns"] >= 0, "status");
}

inline void must_be_event(const json& header) {
    const std::string state = header.at("state");
    must(state == "begin" || state == "update" || state == "end", "state");
    must_be_count(header, "event_n");
    const json& previous = header.at("previous_n");
    must(previous.is_null() || (previous.is_number_integer() && previous < header["event_n"]), "previous_n");
}

inline void must_be_polygons(const json& header) {
    must_be_size(header.at("shape"));
    const double height = header["shape"][0], width = header["shape"][1];
    for (const json& polygon : header.at("polygons")) {
        must(polygon.at("id").is_number_integer() && polygon["id"] >= 0 && polygon["id"] <= 254, "polygon");
        must(polygon.at("rings").is_array() && !polygon["rings"].empty(), "rings");
        for (const json& ring : polygon["rings"]) {
            must(ring.is_array() && ring.size() >= 3, "ring");
            for (const json& point : ring) {
                must(point.is_array() && point.size() == 2, "point");
                const double x = point[0].get<double>(), y = point[1].get<double>();
                must(x >= 0 && x <= width && y >= 0 && y <= height, "point");
            }
        }
    }
}

inline void must_be_zones(const json& header) {
    must_be_size(header.at("shape"));
    const json& zones = header.at("zones");
    must(zones.is_array() && !zones.empty() && zones.size() <= 65, "zones");
    must(zones[0].at("zone") == "picture" &&
         zones[0].at("pixels") == header["shape"][0].get<uint64_t>() * header["shape"][1].get<uint64_t>(), "picture");
    std::set<std::string> names;
    for (const json& zone : zones) {
        must(names.insert(zone.at("zone").get<std::string>()).second, "zone");
        uint64_t pixels = zone.at("unknown").get<uint64_t>();
        int last = -1;
        for (const json& one : zone.at("classes")) {
            const int id = one.at("id").get<int>();
            must(id > last && id <= 254, "class");
            last = id;
            const double share = one.at("share").get<double>();
            must(share >= 0 && share <= 1, "share");
            pixels += one.at("pixels").get<uint64_t>();
        }
        must(zone.at("pixels") == pixels, "pixels");
    }
}

/// Read everything but the payload; throws std::exception on what is not a message of version 1.
inline json parse(const Parts& parts) {
    static const std::map<std::string, size_t> counts = {
        {"mask", 3}, {"refined", 3}, {"mask+confidence", 4}, {"same", 2}, {"rle", 2}, {"labels", 2},
        {"picture", 3}, {"status", 2}, {"event", 2}, {"polygons", 2}, {"zones", 2}};
    must(parts.size() >= 2, "number of parts");
    const std::string& topic = parts[0];
    const std::string kind = topic.substr(0, topic.find('/'));
    const auto count = counts.find(kind);
    must(count != counts.end() && parts.size() == count->second, "kind or number of parts");
    const size_t longest = kind == "rle" || kind == "polygons" ? 4 << 20 : kind == "zones" ? 1 << 20 : kind == "labels" ? 256 << 10
                         : kind == "status" || kind == "event" ? 64 << 10 : 16 << 10;
    must(parts[1].size() <= longest, "length of the header");
    json header = kind == "rle" || kind == "event" || kind == "polygons" || kind == "zones" ? json::parse(parts[1]) : json::from_msgpack(parts[1]);
    must(header.at("version").is_number_integer() && header["version"] == 1, "version");
    const std::string name = header.at(kind == "labels" ? "id" : "stream");
    must(header.at("kind") == kind && topic == kind + "/" + name + "/", "topic");
    if (kind == "labels") {
        size_t next = 0;
        for (const json& one : header.at("classes"))
            must(one.at("id") == next++ && one.at("colour").size() == 3, "class");
        must(next < 256, "classes");
        return header;
    }
    must_be_count(header, "run");
    must(header["run"] >= 1, "run");
    if (kind == "status") {
        must_be_state(header);
        return header;
    }
    if (kind == "event") {
        must_be_event(header);
        return header;
    }
    for (const char* field : {"epoch", "seq", "n"}) must_be_count(header, field);
    for (const char* field : {"captured_unix_ns", "published_unix_ns"})
        must(header.at(field).is_number_integer() && header[field] >= 0, field);
    if (kind == "picture") {
        must(header.at("encoding") == "jpeg" && parts[2].size() <= 4 << 20, "picture");
        must(parts[2].compare(0, 2, "\xff\xd8") == 0, "JPEG");
        must_be_size(header.at("shape"));
        must_be_size(header.at("frame_shape"));
        return header;
    }
    size_t characters = 0;  // of UTF-8, whose further bytes begin with 10
    for (const char byte : header.at("engine").get_ref<const std::string&>()) characters += (byte & 0xc0) != 0x80;
    must(characters <= 256, "engine");
    if (kind == "polygons") {
        must_be_polygons(header);
        return header;
    }
    if (kind == "zones") {
        must_be_zones(header);
        return header;
    }
    if (!header.contains("stage_us")) header["stage_us"] = json::object();
    if (kind == "same") {
        must_be_size(header.at("shape"));
        must_be_count(header, "same_as");
        must(header["same_as"] < header["seq"], "same_as");
        return header;
    }
    must(header.at("revision") == (kind == "refined" ? 1 : 0), "revision");
    must((header.at("encoding") == "coco-rle") == (kind == "rle"), "encoding");
    must_be_size(header.at("shape"));
    return header;
}

/// Whether this is the mask that an unchanged message says it has the labels of.
inline bool holds(const json& same, const json& mask) {
    for (const char* field : {"stream", "run", "epoch", "n", "shape", "engine", "label_set"})
        if (mask.at(field) != same.at(field)) return false;
    return mask.at("seq") == same.at("same_as");
}

inline Labels from_zstd(const std::string& part, size_t size) {
    must(ZSTD_getFrameContentSize(part.data(), part.size()) == size, "size in the zstd frame");
    must(ZSTD_findFrameCompressedSize(part.data(), part.size()) == part.size(), "bytes behind the zstd frame");
    Labels labels(size);
    must(ZSTD_decompress(labels.data(), size, part.data(), part.size()) == size, "zstd frame");
    return labels;
}

inline Labels from_png(const std::string& part, uint32_t height, uint32_t width) {
    auto number = [&](size_t at) {
        must(at + 4 <= part.size(), "length of the PNG");
        uint32_t value = 0;
        for (size_t i = at; i < at + 4; i++) value = value << 8 | static_cast<uint8_t>(part[i]);
        return value;
    };
    must(number(16) == width && number(20) == height, "size of the PNG");
    must(part.compare(24, 5, std::string("\x08\0\0\0\0", 5)) == 0, "8-bit grey, not interlaced");
    std::string kinds;  // only the chunks that are allowed, so that libpng meets nothing else
    for (size_t at = 8; at < part.size(); at += 12 + size_t{number(at)}) kinds += part.substr(at + 4, 4);
    must(kinds.rfind("IHDRIDAT", 0) == 0 && kinds.substr(kinds.size() - 4) == "IEND", "chunks of the PNG");
    for (size_t at = 4; at + 4 < kinds.size(); at += 4) must(kinds.compare(at, 4, "IDAT") == 0, "chunks");
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    Labels labels(size_t{height} * width);
    must(png_image_begin_read_from_memory(&image, part.data(), part.size()), "PNG");
    image.format = PNG_FORMAT_GRAY;
    const bool read = png_image_finish_read(&image, nullptr, labels.data(), 0, nullptr);
    const bool clean = read && !(image.warning_or_error & PNG_IMAGE_WARNING);
    png_image_free(&image);
    must(clean, "PNG");
    return labels;
}

/// COCO's run lengths, painted into labels that are unknown (255) elsewhere.
inline Labels from_runs(const json& segments, const json& shape) {
    const size_t height = shape[0], width = shape[1];
    Labels labels(height * width, 255);
    for (const json& segment : segments) {
        const json& packed = segment.at("segmentation");
        const std::string& text = packed.at("counts").get_ref<const std::string&>();
        const int id = segment.at("category_id");
        must(packed.at("size") == shape && id >= 0 && id < 255, "segment");
        std::array<int64_t, 3> before{};  // the run lengths before this one, the last first
        size_t pixel = 0, run = 0;
        int64_t number = 0;
        int place = 0;
        for (const char character : text) {
            const int bits = character - 48;
            must(bits >= 0 && bits < 64 && place < 35, "counts");
            number |= static_cast<int64_t>(bits & 31) << place;
            place += 5;
            if (bits & 32) continue;
            if (bits & 16) number -= int64_t{1} << place;
            if (run > 2) number += before[1];
            must(number >= 0 && pixel + number <= labels.size(), "run length");
            for (const size_t end = pixel + number; pixel < end; pixel++) {
                if (run % 2 == 0) continue;
                uint8_t& label = labels[pixel % height * width + pixel / height];  // down the columns
                must(label == 255, "two classes on one pixel");
                label = static_cast<uint8_t>(id);
            }
            before = {number, before[0], before[1]};
            run++, number = 0, place = 0;
        }
        must(place == 0 && pixel == labels.size(), "run lengths");
    }
    return labels;
}

/// The whole message.
inline Mask decode(const Parts& parts) {
    Mask mask{parse(parts), {}, {}};
    const json& header = mask.header;
    for (const char* kind : {"labels", "same", "status", "picture", "event", "polygons", "zones"})
        if (header["kind"] == kind) return mask;
    const uint32_t height = header["shape"][0], width = header["shape"][1];
    auto unpack = [&](const std::string& part) {
        const std::string encoding = header["encoding"];
        if (encoding == "zstd") return from_zstd(part, size_t{height} * width);
        if (encoding == "png") return from_png(part, height, width);
        must(encoding == "raw" && part.size() == size_t{height} * width, "encoding or length of the payload");
        return Labels(part.begin(), part.end());
    };
    mask.labels = header["kind"] == "rle" ? from_runs(header.at("segments"), header["shape"]) : unpack(parts[2]);
    if (header["kind"] == "mask+confidence") mask.confidence = unpack(parts[3]);
    return mask;
}

// A mask at another size: each pixel from the one that its centre lies in.
inline Mask at(const Mask& mask, size_t height, size_t width) {
    const size_t rows = mask.header.at("shape")[0], columns = mask.header["shape"][1];
    auto scaled = [&](const Labels& labels) {
        Labels made(labels.empty() ? 0 : height * width);
        for (size_t y = 0, i = 0; y < height && i < made.size(); y++) {
            const uint8_t* row = labels.data() + (2 * y + 1) * rows / (2 * height) * columns;
            for (size_t x = 0; x < width; x++) made[i++] = row[(2 * x + 1) * columns / (2 * width)];
        }
        return made;
    };
    json header = mask.header;
    header["shape"] = {height, width};
    return {header, scaled(mask.labels), scaled(mask.confidence)};
}

inline Parts snapshot_request(const std::vector<std::string>& prefixes) {
    Parts parts = {"snapshot"};
    parts.insert(parts.end(), prefixes.begin(), prefixes.end());
    return parts;
}

inline Snapshot parse_snapshot(const Parts& parts) {
    must(parts.size() >= 2 && parts[0] == "snapshot", "snapshot");
    const json head = json::from_msgpack(parts[1]);
    must(head.at("version") == 1, "version");
    must_be_count(head, "run");
    must(head["run"] >= 1, "run");
    Snapshot snapshot{head["run"], {}};
    auto next = parts.begin() + 2;
    for (const json& count : head.at("parts")) {
        must(count.is_number_integer() && count >= 2 && count <= 4 && count <= parts.end() - next, "parts");
        const auto first = next;
        snapshot.messages.emplace_back(first, next += count.get<int>());
    }
    must(next == parts.end(), "parts");
    return snapshot;
}

}  // namespace streamseg
